import pytest
import torch

from lightning_modules.editing.edited_weights import EditedWeights, Update
from lightning_modules.editing.expert_edits import by_expert
from lightning_modules.language_model.layout import oriented, output_weight_name
from lightning_modules.methods.alpha_edit import AlphaEdit
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.lora import LoRA
from lightning_modules.methods.rls_edit import RLSEdit
from lightning_modules.methods.ultra_edit import UltraEdit
from tests.tiny import EDITED_LAYER, tiny_model, tiny_tokenizer


def stacked_update(name: str, experts: int, width: int, touched: list[int]) -> Update:
    chance = torch.Generator().manual_seed(0)
    left, right = torch.randn(32, 2, generator=chance), torch.zeros(2, experts, width)
    right[:, touched] = torch.randn(2, len(touched), width, generator=chance)
    return Update(name, left, right.flatten(1))


def test_change_of_stacked_keys_is_one_change_per_expert_that_it_touches(mixture):
    name = output_weight_name(mixture, EDITED_LAYER)
    experts, width = len(mixture.get_parameter(name)), oriented(mixture, f"{name}[0]").shape[1]
    whole = stacked_update(name, experts, width, [1, 3])
    parts = list(by_expert(mixture, [whole]))
    assert [part.weight for part in parts] == [f"{name}[1]", f"{name}[3]"]
    blocks = whole.dense().unflatten(1, (experts, width))
    for part, expert in zip(parts, (1, 3), strict=True):
        assert torch.allclose(part.dense(), blocks[:, expert])
    assert list(by_expert(mixture, parts)) == parts


def test_only_slices_that_change_are_stored(mixture):
    name = output_weight_name(mixture, EDITED_LAYER)
    before, edited = mixture.get_parameter(name).clone(), EditedWeights(mixture, [name])
    assert edited.original == {}
    width = oriented(mixture, f"{name}[0]").shape[1]
    edited.apply(Update(f"{name}[2]", torch.ones(32, 1), torch.ones(1, width)))
    change = mixture.get_parameter(name) - before
    assert set(edited.original) == {f"{name}[2]"}
    assert torch.allclose(change[2], torch.ones(()))
    assert not change[[0, 1, 3]].any()
    edited.assign(edited.original)
    assert torch.equal(mixture.get_parameter(name), before)


def test_checkpoint_of_other_experts_weights_is_refused(mixture):
    first, second = (output_weight_name(mixture, layer) for layer in (1, 2))
    edited = EditedWeights(mixture, [first])
    with pytest.raises(ValueError, match="the checkpoint holds the edited weights"):
        edited.load({f"{second}[0]": mixture.get_parameter(second)[0]})
    with pytest.raises(ValueError, match=r"down_proj\[0\] may not change, only "):
        edited.apply(Update(f"{second}[0]", torch.ones(32, 1), torch.ones(1, 1)))


@pytest.mark.parametrize(
    "method",
    [AlphaEdit, FineTuning, LoRA, RLSEdit, UltraEdit],
)
def test_method_that_cannot_edit_experts_says_which_can(method):
    editor = method(lm="tiny", layers=[0, 1])
    with pytest.raises(
        ValueError, match=rf"{method.__name__} cannot edit experts, which layers \[1\]"
    ):
        editor.attach(tiny_model("deepseek_v3"), tiny_tokenizer())


def test_dense_layer_of_a_mixture_is_edited_as_any_other():
    editor = FineTuning(lm="tiny", layers=[0])
    editor.attach(tiny_model("deepseek_v3"), tiny_tokenizer())
    assert list(editor.original) == ["model.layers.0.mlp.down_proj.weight"]
