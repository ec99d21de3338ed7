import pytest
import torch

from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.encore import ENCORE
from lightning_modules.methods.memit import MEMIT
from tests.batches import (
    FAST,
    LAYERS,
    NEAR,
    REQUESTS,
    TOKENIZER,
    check_against,
    check_resumed,
    check_undone,
    moment_of,
    ready,
)
from tests.tiny import tiny_model

WEIGHT, NORM = 0.5, 0.2


def encore(layers=LAYERS, norm: float = NORM, **options) -> ENCORE:
    return ENCORE(WEIGHT, norm, layers=layers, lm="tiny", **options)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_edits_in_sequence_are_the_equations(family):
    past = {layer: torch.zeros(48, 0).double() for layer in LAYERS}

    def equation(layer, keys, residuals):
        system = WEIGHT * moment_of(layer) + NORM * torch.eye(48)
        system = system + past[layer] @ past[layer].T + keys @ keys.T
        past[layer] = torch.cat([past[layer], keys], 1)
        return residuals @ keys.T @ system.inverse()

    editor = ready(encore(value=FAST), tiny_model(family))
    check_against(editor, equation)


def test_norm_weight_holds_the_change_down(tiny_gpt2):
    norms = []
    for norm in (1e-3, 1.0, 1e3):
        (update,) = ready(encore([1], norm, value=FAST), tiny_gpt2).edit(REQUESTS)
        norms.append(float(update.dense().norm()))
    assert norms[0] > norms[1] > 10 * norms[2]


def test_identity_takes_both_weights(tiny_gpt2):
    editor = ready(encore([1], value=FAST, second_moment="identity"), tiny_gpt2)
    (one,) = editor.edit(REQUESTS)
    both = WEIGHT + NORM / editor.mean_square(1)  # the norm weight is of the identity itself
    memit = MEMIT(both, layers=[1], lm="tiny", second_moment="identity")
    (other,) = ready(memit, tiny_gpt2).edit(REQUESTS)
    torch.testing.assert_close(one.dense(), other.dense())


def test_search_goes_on_until_the_clean_prompt_gives_the_target(tiny_gpt2):  # B23
    options = ValueSearchOptions(steps=25, clamp=20.0, stop="most_probable", goal=-1.0)
    editor = ready(ENCORE(1e-9, 1e-9, options, layers=[1], lm="tiny"), tiny_gpt2, ["{}"])
    span = target_span(TOKENIZER, NEAR.text, NEAR.target_new)
    before = editor.score([span])
    editor.make_edit([NEAR])
    after = editor.score([span])
    editor.restore()
    assert before.greedy[0] < before.length[0] == after.greedy[0]
    assert 1 < editor.record["value_steps"] < 25


def test_default_search_stops_at_the_most_probable():
    assert ENCORE(layers=[1], lm="tiny").search.options.stop == "most_probable"


def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny_gpt2):  # B18
    check_resumed(lambda: encore(value=FAST), tiny_gpt2)


def test_undone_edit_leaves_no_trace_in_the_history():
    check_undone(ready(encore(value=FAST), tiny_model("gpt2")))


@pytest.mark.parametrize("name", ["preservation", "norm_weight"])
def test_weights_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got -1.0"):
        ENCORE(**{name: -1.0}, layers=[1], lm="tiny")


def test_card_tells_both_weights(tiny_gpt2):
    card = ready(encore(), tiny_gpt2).card()
    assert (card["preservation"], card["norm_weight"], card["history"]) == (WEIGHT, NORM, True)
