import pytest
import torch
from torch import nn

from lightning_modules.language_model.layout import LAYOUTS
from lightning_modules.language_model.lower_states import LowerStates
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.self_test import difference, self_test, tried_layers
from lightning_modules.language_model.shortcuts import Shortcuts, shortcuts_of
from lightning_modules.language_model.suffixes import record_suffixes, suffix_logits
from lightning_modules.language_model.tokens import Span, collate
from tests.families import COLUMNS, ROWS, SUBJECTS, TEXTS
from tests.lightning_modules.language_model.test_passes import hooks
from tests.lightning_modules.language_model.test_suffixes import naive_logits
from tests.tiny import EDITED_LAYER, LAYERS, tiny_model


def test_known_families_have_every_shortcut(family):
    lm = tiny_model(family)
    self_test(lm, [EDITED_LAYER])
    assert shortcuts_of(lm) == Shortcuts(layers=(EDITED_LAYER, LAYERS - 1))


def test_double_precision_counts_float32_parts_as_rounding():
    lm = tiny_model("gptj").double()
    self_test(lm, [EDITED_LAYER])
    assert shortcuts_of(lm) == Shortcuts(layers=(EDITED_LAYER, LAYERS - 1))


def test_model_is_left_as_it_was(tiny_llama):
    state = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    before = list(hooks(tiny_llama))
    self_test(tiny_llama, [0, 2])
    assert list(hooks(tiny_llama)) == before
    assert all(torch.equal(value, state[name]) for name, value in tiny_llama.state_dict().items())


def test_layers_tested_before_are_not_tested_again():
    lm = tiny_model("gpt2")
    self_test(lm, [1])
    lm.forward = None
    self_test(lm, [1])
    lm.forward = type(lm).forward.__get__(lm)
    self_test(lm, [0, 1])
    assert shortcuts_of(lm).layers == (0, 1, 2)


@pytest.mark.parametrize(
    ("count", "edited", "tried"),
    [(12, [5], {5, 11}), (12, [11], {6, 11}), (12, [3, 4, 8], {3, 8}), (1, [0], {0})],
)
def test_lowest_and_highest_edited_layer_are_tried(count, edited, tried):
    assert tried_layers(count, edited) == tried


def test_residual_factor_unknown_to_the_table_costs_the_suffix():
    lm = tiny_model("llama")
    for block in lm.model.layers:
        block.mlp.register_forward_hook(lambda module, args, output: 0.5 * output)
    self_test(lm, [EDITED_LAYER])
    found = shortcuts_of(lm)
    assert (found.suffix, found.lower, found.head) == (False, True, True)
    assert "suffix: would differ by 0." in found.in_words


def test_slow_search_equals_whole_passes():
    lm = tiny_model("llama")
    lm.shortcuts = Shortcuts(suffix=False, head=False)
    change = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    suffixes = record_suffixes(lm, 1, collate(TEXTS, lm.device), torch.tensor(SUBJECTS))
    ours = suffix_logits(lm, 1, suffixes, change, ROWS, COLUMNS)
    torch.testing.assert_close(ours, naive_logits(lm, 1, change), atol=1e-5, rtol=1e-5)
    two = torch.tensor([1, 3])
    part = suffix_logits(
        lm, 1, suffixes.chosen(two), change[two], torch.tensor([0, 1]), torch.tensor([1, 0])
    )
    wanted = [ours[(row == ROWS) & (at == COLUMNS)][0] for row, at in ((1, 1), (3, 0))]
    torch.testing.assert_close(part, torch.stack(wanted), atol=1e-5, rtol=1e-5)


def test_watched_text_of_a_model_without_the_shortcut_keeps_nothing():
    lm, lower = tiny_model("llama"), LowerStates(1, 1e9)
    lm.shortcuts = Shortcuts(lower=False)
    score(lm, [Span(TEXTS[0], 1)], lower=lower)
    assert lower.kept == {}


def test_state_that_skips_blocks_costs_the_lower_states():
    lm = tiny_model("llama")
    first = lm.model.layers[0]
    seen = []
    first.register_forward_hook(lambda module, args, output: seen.append(output) or None)
    last = lm.model.layers[2]
    last.register_forward_pre_hook(  # as Gemma 3n's, which reads more than the stream
        lambda module, args: (args[0] + seen[-1].square(), *args[1:])
    )
    self_test(lm, [1])
    assert not shortcuts_of(lm).lower


def test_model_that_looks_ahead_is_refused_with_the_difference():
    lm = tiny_model("llama")
    lm.model.layers[1].register_forward_hook(
        lambda module, args, output: output + output.mean(1, keepdim=True)
    )
    with pytest.raises(ValueError, match=r"'llama' cannot be edited: later tokens .* by [0-9.]+"):
        self_test(lm, [1])


def idling(block, args, output):
    block.idle(output.new_ones(*output.shape[:-1], 48))


def test_value_without_effect_is_refused(monkeypatch):
    lm = tiny_model("llama")
    monkeypatch.setitem(LAYOUTS, "llama", LAYOUTS["llama"]._replace(output="idle"))
    for block in lm.model.layers:
        block.idle = nn.Linear(48, 32)
        block.register_forward_hook(idling)
    with pytest.raises(ValueError, match=r"a change of 'idle' in layer 1 moves the logits by 0 "):
        self_test(lm, [1])


def test_difference_is_relative_to_the_spread():
    right = torch.tensor([[1.0, -1.0], [30.0, 10.0]])
    assert difference(right + torch.tensor([[0.0], [0.1]]), right) == pytest.approx(0.01, rel=1e-4)
    assert difference(right * float("nan"), right) == float("inf")
