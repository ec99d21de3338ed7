import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from lightning_modules.language_model.kernels import (
    FastConv1D,
    FastGELU,
    FastLinear,
    use_fast_kernels,
)
from tests.oracles import published_kernels
from tests.tiny import FAMILIES, tiny_model

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="this torch multiplies without MKL or without oneDNN",
)
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = {
    "texts": torch.randn(3, 4, 5, generator=GENERATOR),
    "one": torch.randn(5, generator=GENERATOR),
    "none": torch.randn(0, 5, generator=GENERATOR),
    "transposed": torch.randn(4, 3, 5, generator=GENERATOR).transpose(0, 1),
    "strided": torch.randn(3, 10, generator=GENERATOR)[:, ::2],
    "expanded": torch.randn(1, 5, generator=GENERATOR).expand(4, 5),
}


def frozen(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)  # after which inputs are drawn too
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.requires_grad_(False)


@pytest.fixture(params=[True, False], ids=["bias", "plain"])
def linear(request) -> nn.Module:
    return frozen(FastLinear(5, 7, bias=request.param))


@needs_onednn
@pytest.mark.parametrize("name", INPUTS)
def test_a_linear_map_gives_what_torch_gives(linear, name):
    x = INPUTS[name]
    expected = F.linear(x, linear.weight, linear.bias)
    torch.testing.assert_close(linear(x), expected, rtol=1e-6, atol=1e-6)


@needs_onednn
@pytest.mark.parametrize("kind", [FastLinear(5, 7), FastConv1D(7, 5)], ids=["linear", "conv1d"])
def test_gradients_of_inputs_are_those_of_torch_twice(kind):
    module, x = frozen(kind), torch.randn(3, 4, 5, requires_grad=True)

    def derivatives() -> list[torch.Tensor]:
        (once,) = torch.autograd.grad(module(x).pow(3).sum(), [x], create_graph=True)
        (twice,) = torch.autograd.grad(once.pow(2).sum(), [x])
        return [once.detach(), twice]

    ours = derivatives()
    with published_kernels(module):
        expected = derivatives()
    for found, wanted in zip(ours, expected, strict=True):  # sums of terms that nearly cancel
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("kind", [FastLinear(5, 7), FastConv1D(7, 5)], ids=["linear", "conv1d"])
def test_what_learns_gets_its_gradient(kind):
    module, x = frozen(kind), torch.randn(4, 5)
    module.bias.requires_grad_(True)
    (gradient,) = torch.autograd.grad(module(x).sum(), [module.bias])
    torch.testing.assert_close(gradient, torch.full((7,), 4.0))
    module.weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(module(x).sum(), [module.weight])
    shape = gradient.T if isinstance(module, Conv1D) else gradient
    torch.testing.assert_close(shape, x.sum(0).expand(7, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_than_float32_stay_with_torch(dtype):
    module, x = frozen(FastLinear(5, 7)).to(dtype), torch.randn(4, 5, dtype=dtype)
    assert torch.equal(module(x), F.linear(x, module.weight, module.bias))


def test_gelu_is_the_tanh_approximation():
    x = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(FastGELU()(x), NewGELUActivation()(x), rtol=1e-5, atol=1e-6)


@needs_onednn
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_the_same(family):
    lm, tokens = tiny_model(family).eval().requires_grad_(False), torch.arange(3, 17)[None]
    before = lm(tokens).logits
    use_fast_kernels(lm)
    assert any(type(module) in (FastLinear, FastConv1D) for module in lm.modules())
    torch.testing.assert_close(lm(tokens).logits, before, rtol=1e-5, atol=1e-6)
    with published_kernels(lm):
        assert torch.equal(lm(tokens).logits, before)
