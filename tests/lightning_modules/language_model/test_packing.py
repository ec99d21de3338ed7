import pytest
import torch
import torch.nn.functional as F

from data_modules.embedded import embedded_requests, embedded_sentences
from data_modules.records import WatchedText
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model import packing
from lightning_modules.language_model.kernels import FastConv1D, FastLinear, use_fast_kernels
from lightning_modules.language_model.packing import Packs, require_bfloat16
from lightning_modules.methods.rome import ROME
from tests.batches import REQUESTS
from tests.lightning_modules.language_model.test_kernels import frozen, needs_onednn
from tests.tiny import EDITED_LAYER, tiny_editor, tiny_model

pytestmark = needs_onednn
KINDS = pytest.mark.parametrize(
    "kind", [FastLinear(48, 80), FastConv1D(80, 48)], ids=["linear", "conv1d"]
)
BFLOAT16 = ValueSearchOptions(precision="bfloat16")


def supported() -> bool:
    try:
        require_bfloat16(fast_model())
    except ValueError:
        return False
    return True


def fast_model(family="gpt2", **changes):
    lm = tiny_model(family, **changes)
    use_fast_kernels(lm)
    return lm


needs_bfloat16 = pytest.mark.skipif(
    not supported(), reason="this processor has no instructions for bfloat16"
)


def answered(module, packs, x):
    """The map's output with packs, and the gradient of its input."""
    with packs.used(module):
        output = module(x)
        (gradient,) = torch.autograd.grad(output.pow(3).sum(), [x])
    return output.detach(), gradient


@KINDS
def test_float32_packs_give_the_same_bits(kind):
    module, x = frozen(kind), torch.randn(3, 7, 48, requires_grad=True)
    plain, packed = answered(module, Packs(torch.float32, 0), x), Packs(torch.float32, 2**20)
    for _ in range(2):
        assert all(map(torch.equal, answered(module, packed, x), plain))
    assert len(packed.kept) == 1
    for rows in (0, 1, 2, 9, 130):  # the layout was made for another number
        x = torch.randn(rows, 48, requires_grad=True)
        expected = answered(module, Packs(torch.float32, 0), x)
        assert all(map(torch.equal, answered(module, packed, x), expected))


@needs_bfloat16
@KINDS
def test_bfloat16_products_are_those_of_rounded_factors(kind):
    module, x = frozen(kind), torch.randn(3, 7, 48, requires_grad=True)
    output, gradient = answered(module, Packs(torch.bfloat16, 2**20), x)
    assert output.dtype == gradient.dtype == torch.float32
    weight = (module.weight if isinstance(module, FastLinear) else module.weight.T).bfloat16()
    expected = F.linear(x.bfloat16().float(), weight.float()).detach()
    torch.testing.assert_close(output - module.bias, expected, rtol=2**-7, atol=1e-2)
    (exact,) = torch.autograd.grad(module(x).pow(3).sum(), [x])
    assert F.cosine_similarity(gradient.flatten(), exact.flatten(), 0) > 0.999


@KINDS
def test_a_changed_weight_is_packed_anew(kind):
    module, x, packs = frozen(kind), torch.randn(4, 48), Packs(torch.float32, 2**20)
    room = packs.budget
    with packs.used(module), torch.no_grad():
        before, left = module(x), packs.budget
        module.weight.mul_(2)
        changed = module(x)
    assert torch.equal(changed, module(x))
    assert not torch.allclose(changed, before)
    assert packs.budget == left == room - 2 * 4 * 48 * 80


@KINDS
def test_what_does_not_fit_is_multiplied_unpacked(kind):
    module, x = frozen(kind), torch.randn(4, 48, requires_grad=True)
    packs = Packs(torch.float32, 2 * 4 * 48 * 80 - 1)
    found = answered(module, packs, x)
    assert packs.kept == {}
    assert all(map(torch.equal, found, answered(module, Packs(torch.float32, 0), x)))


def test_a_search_finds_the_same_bits_and_leaves_no_packs(tiny_lm):
    found = []
    for size in (0.0, 1.0):
        options = ValueSearchOptions(steps=4, weight_decay=0.0, clamp=50.0, packed=size)
        editor = tiny_editor(ROME, tiny_lm, options=options)
        found.append(editor.seek(REQUESTS[:2]))
        assert bool(editor.search.packs.kept) == bool(size)
    assert all(getattr(module, "packs", None) is None for module in tiny_lm.modules())
    for (_, plain), (_, packed) in zip(*found, strict=True):
        assert plain.losses == packed.losses
        assert torch.equal(plain.change, packed.change)


def test_what_a_search_packs_is_known_before_it(tiny_lm):
    packs = tiny_editor(ROME, tiny_lm).search.packs
    whole, known = packs.budget, packs.most(tiny_lm, EDITED_LAYER)
    editor = tiny_editor(ROME, tiny_lm)
    editor.seek(REQUESTS[:2])
    assert 0 < whole - editor.search.packs.budget == known
    assert Packs(torch.float32, 8.0).most(tiny_lm, EDITED_LAYER) == 8.0


@needs_bfloat16
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_search_in_bfloat16_ends_near_the_same_loss(family):
    options = {"steps": 10, "weight_decay": 0.0, "clamp": 50.0}
    plain, other = (
        tiny_editor(ROME, tiny_model(family), options=ValueSearchOptions(**options, precision=how))
        for how in ("model", "bfloat16")
    )
    pairs = zip(plain.seek(REQUESTS[:2]), other.seek(REQUESTS[:2]), strict=True)
    for (_, one), (_, found) in pairs:
        assert found.change.dtype == torch.float32
        assert found.losses != one.losses
        assert found.losses == pytest.approx(one.losses, rel=0.05)


@needs_bfloat16
def test_bfloat16_collapses_the_same_embedded_cases():
    editor = ROME(value=BFLOAT16)
    editor.configure_model()
    editor.prepare()
    texts = WatchedText(list(range(50)), embedded_sentences()[:50])
    by_case = {request.case_id: request for request in embedded_requests()}
    in_float32 = {21: 1365, 3: 346.6}  # the first collapses
    for case, expected in in_float32.items():
        editor.make_edit([by_case[case]])
        assert float(editor.watch(texts).nll.exp().mean()) == pytest.approx(expected, rel=0.01)
        editor.restore()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda: fast_model().bfloat16(), "the model is bfloat16"),
        (lambda: tiny_model("gpt2"), "this model's maps cannot be packed"),
        (lambda: fast_model().to("meta"), "the model is on meta"),
    ],
)
def test_bfloat16_is_refused_where_it_would_not_be_quicker(wrong, why, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with pytest.raises(ValueError, match=why):
        require_bfloat16(wrong())


def test_bfloat16_is_refused_without_the_instructions(monkeypatch):
    monkeypatch.setattr(packing.torch.cpu, "get_capabilities", dict)
    with pytest.raises(ValueError, match="this processor has no instructions for it; leave it out"):
        tiny_editor(ROME, tiny_model("gpt2"), options=BFLOAT16)


def test_bfloat16_and_compilation_exclude_each_other(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    editor.search.options, editor.search.compiled = BFLOAT16, True
    with pytest.raises(ValueError, match="does not apply to a compiled search"):
        editor.search.attach(tiny_gpt2, editor.tokenizer, 1)
