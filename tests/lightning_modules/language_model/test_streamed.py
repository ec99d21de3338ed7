"""Maps that wait on the CPU or on disk: fetched for each product, and kept by none."""

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers.pytorch_utils import Conv1D

from lightning_modules.language_model.split import weights_of
from lightning_modules.language_model.streamed import (
    StreamedConv1D,
    StreamedLinear,
    keep_loaded,
    use_fast_maps,
)

KINDS = {StreamedLinear: lambda: nn.Linear(6, 4), StreamedConv1D: lambda: Conv1D(4, 6)}


def waiting(kind):
    """A model of one map, and the same with the map's weights offloaded."""
    torch.manual_seed(0)
    models = []
    for _ in range(2):
        lm = nn.ModuleDict({"map": KINDS[kind]()}).requires_grad_(False)
        lm.load_state_dict(models[0].state_dict() if models else lm.state_dict())
        models.append(lm)
    cpu_offload(models[1])
    for lm in models:
        use_fast_maps(lm)
    return models


@pytest.mark.parametrize("kind", KINDS)
def test_product_and_gradient_are_bit_for_bit_those_of_the_loaded_map(kind):
    loaded, streamed = waiting(kind)
    assert type(streamed["map"]) is kind
    assert streamed["map"].weight.is_meta
    x, seed = torch.randn(2, 3, 6, requires_grad=True), torch.randn(2, 3, 4)
    outputs = [lm["map"](x) for lm in (loaded, streamed)]
    assert torch.equal(*outputs)
    assert torch.equal(*(torch.autograd.grad(output, x, seed)[0] for output in outputs))
    assert streamed["map"].weight.is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_keeps_no_weight(kind):
    _, streamed = waiting(kind)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        streamed["map"](torch.randn(2, 6, requires_grad=True))
    assert kept == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_is_kept_loaded_is_an_ordinary_one(kind):
    loaded, streamed = waiting(kind)
    keep_loaded(streamed, ["map.weight"])
    assert type(streamed["map"]) is type(loaded["map"])
    assert torch.equal(streamed["map"].weight, loaded["map"].weight)
    x = torch.randn(2, 6)
    assert torch.equal(streamed["map"](x), loaded["map"](x))


def test_weights_are_read_one_at_a_time_from_where_they_wait():
    loaded, streamed = waiting(StreamedLinear)
    for (name, weight), (other, right) in zip(
        weights_of(streamed), weights_of(loaded), strict=True
    ):
        assert name == other
        assert torch.equal(weight, right)
    assert all(weight.is_meta for weight in streamed.parameters())
