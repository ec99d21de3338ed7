import pytest
import torch

from lightning_modules.editing.edited_weights import EditedWeights, Update
from lightning_modules.language_model.layout import oriented, output_weight_name
from tests.tiny import tiny_model


def edited(family: str = "gpt2", dtype: torch.dtype = torch.float32) -> tuple:
    lm = tiny_model(family).to(dtype)
    name = output_weight_name(lm, 1)
    return lm, name, EditedWeights(lm, [name])


def small_update(name: str, size: float = 1e-4, seed: int = 0) -> Update:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(32, 1, generator=generator), torch.randn(1, 48, generator=generator)
    return Update(name, size * left, right)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_update_is_added_as_out_by_in(family):
    lm, name, weights = edited(family)
    before = oriented(lm, name).clone()
    update = small_update(name, 0.1)
    weights.apply(update)
    torch.testing.assert_close(oriented(lm, name) - before, update.dense(), rtol=1e-4, atol=1e-6)
    assert weights.distance(weights.original) == pytest.approx(
        float(update.dense().norm()), rel=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_thousand_small_edits_of_a_half_precision_model_lose_nothing(dtype):
    lm, name, weights = edited("llama", dtype)
    twin = EditedWeights(tiny_model("llama").to(dtype).float(), [name])
    rounded = lm.get_parameter(name).clone()
    for seed in range(1000):
        update = small_update(name, 1e-5, seed)
        weights.apply(update)
        twin.apply(update)
        rounded += update.dense().to(dtype)
    assert torch.equal(weights.master(name), twin.master(name))
    assert torch.equal(lm.get_parameter(name), twin.master(name).to(dtype))
    lost = (rounded.float() - twin.master(name)).norm() / twin.distance(twin.original)
    assert lost > 0.1


def test_weights_of_other_layers_are_refused_by_name():
    lm, name, weights = edited()
    other = output_weight_name(lm, 0)
    both = EditedWeights(lm, [name, other]).snapshot()
    for held in ({other: both[other]}, both):
        with pytest.raises(ValueError, match=rf"holds .*{other}.* edits {name}; name the method"):
            weights.load(held)
    weights.load({name: both[name] + 1})
    assert torch.equal(lm.get_parameter(name), both[name] + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_snapshots_bring_back_weights_and_masters_bit_by_bit(dtype):
    lm, name, weights = edited("gpt2", dtype)
    original, parameter = weights.snapshot(), lm.get_parameter(name).clone()
    weights.apply(small_update(name))
    between = weights.snapshot()
    weights.apply(small_update(name, seed=1))
    weights.assign(between)
    assert torch.equal(weights.master(name), between[name])
    with weights.unedited():
        assert torch.equal(lm.get_parameter(name), parameter)
    assert torch.equal(weights.master(name), between[name])
    weights.assign(original)
    assert torch.equal(lm.get_parameter(name), parameter)
    assert weights.distance(original) == 0


def test_update_that_is_not_finite_is_refused_before_it_is_applied():
    lm, name, weights = edited()
    before = lm.get_parameter(name).clone()
    with pytest.raises(FloatingPointError, match=r"update of .*c_proj.weight is not finite"):
        weights.apply(small_update(name, float("inf")))
    assert torch.equal(lm.get_parameter(name), before)


def test_an_update_that_overflows_half_precision_fails_and_leaves_the_weight():
    lm, name, weights = edited("llama", torch.float16)
    before, master = lm.get_parameter(name).clone(), weights.master(name).clone()
    with pytest.raises(FloatingPointError, match=f"the update of {name} overflows float16"):
        weights.apply(small_update(name, 1e6))
    assert torch.equal(lm.get_parameter(name), before)
    assert torch.equal(weights.master(name), master)
