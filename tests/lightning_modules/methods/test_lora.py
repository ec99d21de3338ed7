import math
from copy import deepcopy

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from lightning_modules.language_model.layout import oriented, output_weight_name
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.lora import LoRA
from tests.batches import REQUESTS, TOKENIZER, log_prob
from tests.lightning_modules.methods.test_fine_tuning import naive_loss
from tests.tiny import EDITED_LAYER

OPTIONS = {"layers": [EDITED_LAYER], "learning_rate": 0.02, "rank": 3, "alpha": 6.0, "steps": 4}


def ready(lm, **options):
    editor = LoRA(lm="tiny", **(OPTIONS | options))
    editor.attach(deepcopy(lm), TOKENIZER)
    return editor


def naive_changes(lm, request, seed, rank, scale, steps, rate):
    """Adam on the factors of one weight, the whole model in every step."""
    name = output_weight_name(lm, EDITED_LAYER)
    weight = oriented(lm, name).clone()
    draw = torch.Generator().manual_seed(seed)
    right = torch.empty(rank, weight.shape[1])
    torch.nn.init.kaiming_uniform_(right, math.sqrt(5), generator=draw)
    left = torch.zeros(weight.shape[0], rank)
    factors = [right.requires_grad_(), left.requires_grad_()]
    adam = torch.optim.Adam(factors, rate)
    for _ in range(steps):
        changed = weight + scale * left @ right
        stored = changed.T if is_conv(lm, name) else changed
        found = torch.func.functional_call(Loss(lm, request), {f"lm.{name}": stored}, ())
        adam.zero_grad()
        found.backward()
        adam.step()
    return (scale * left @ right).detach()


def is_conv(lm, name):
    return isinstance(lm.get_submodule(name.rpartition(".")[0]), Conv1D)


class Loss(torch.nn.Module):
    def __init__(self, lm, request):
        super().__init__()
        self.lm, self.request = lm, request

    def forward(self):
        return naive_loss(self.lm, self.request, "teacher_forced")


def test_an_edit_is_adam_on_the_factors(tiny_lm):
    editor = ready(tiny_lm)
    editor.make_edit(REQUESTS[:1])
    (update,) = editor.applied
    expected = naive_changes(deepcopy(tiny_lm), REQUESTS[0], 0, 3, 2.0, 4, 0.02)
    assert torch.allclose(update.dense(), expected, atol=1e-4)


def test_an_edit_raises_its_targets_probability_and_has_the_adapters_rank(tiny_lm):
    editor = ready(tiny_lm)
    before = log_prob(editor, REQUESTS[0])
    editor.make_edit(REQUESTS[:1])
    assert editor.record["status"] == "applied"
    assert log_prob(editor, REQUESTS[0]) > before
    assert editor.applied[0].left.shape[1] == 3


def test_the_model_has_no_adapter_left_and_only_the_edited_weight_changed(tiny_lm):
    editor = ready(tiny_lm)
    editor.make_edit(REQUESTS[:2])
    (edited,) = editor.edited_weights()
    names = dict(editor.lm.named_parameters())
    assert names.keys() == dict(tiny_lm.named_parameters()).keys()
    for name, weight in names.items():
        assert torch.equal(weight, tiny_lm.get_parameter(name)) == (name != edited)
        assert not weight.requires_grad


def test_an_undone_edit_is_repeated_to_the_bit(tiny_gpt2):
    editor = ready(tiny_gpt2)
    editor.make_edit(REQUESTS[:1])
    first = editor.applied[0].dense()
    editor.undo()
    editor.make_edit(REQUESTS[:1])
    assert torch.equal(editor.applied[0].dense(), first)


def test_a_failed_edit_leaves_no_adapter(tiny_gpt2, monkeypatch):
    editor = ready(tiny_gpt2)
    monkeypatch.setattr(
        "lightning_modules.methods.lora.target_loss", lambda *_: torch.tensor(math.nan)
    )
    editor.make_edit(REQUESTS[:1])
    assert (editor.record["status"], editor.record["reason"]) == (
        "failed", "the loss of the adapter is nan",
    )  # fmt: skip
    assert not list(editor.adapters())


def test_a_step_below_the_goal_is_the_last(tiny_gpt2):
    editor = ready(tiny_gpt2, goal=1e9)
    editor.make_edit(REQUESTS[:1])
    assert editor.record["steps"] == 0
    assert editor.record["update_norm"] == 0


@pytest.mark.parametrize("name", ["rank", "alpha", "steps"])
def test_a_number_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        LoRA(layers=[0], **{name: 0})


def test_fine_tuning_of_a_block_changes_all_its_parameters_and_no_other(tiny_lm):
    editor = FineTuning(
        lm="tiny", layers=[EDITED_LAYER], parameters="block", radius=None, steps=2,
        placement="teacher_forced",
    )  # fmt: skip
    editor.attach(deepcopy(tiny_lm), TOKENIZER)
    before = log_prob(editor, REQUESTS[0])
    editor.make_edit(REQUESTS[:1])
    assert log_prob(editor, REQUESTS[0]) > before
    inside = [f".{EDITED_LAYER}." in name for name, _ in editor.lm.named_parameters()]
    assert len(editor.edited_weights()) == sum(inside)
    for name, weight in editor.lm.named_parameters():
        if f".{EDITED_LAYER}." not in name:
            assert torch.equal(weight, tiny_lm.get_parameter(name))
