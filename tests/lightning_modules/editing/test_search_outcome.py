import math
import re
from dataclasses import replace

import pytest

from data_modules.records import EditRequest
from lightning_modules.editing.search_outcome import DEPTHS, SHORT, search_figures
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME, ConsistentROME
from tests.tiny import CONTEXTS, OPTIONS, tiny_editor, tiny_tokenizer

NEAR = EditRequest(9, "{}", "He", "is")
LATER = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin")
FREE = ValueSearchOptions(steps=SHORT, weight_decay=0.0, clamp=50.0, kl_weight=0.0)
BOUND = replace(OPTIONS, clamp=1e-3)


def mean_probability(editor, request):
    """Of the target per token, geometric mean over contexts, each context in a pass of its own."""
    logs = []
    for context in CONTEXTS:
        prompt = context.replace("{}", request.text)
        span = target_span(editor.tokenizer, prompt, request.target_new)
        scores = editor.score([span])
        logs.append(float(scores.log_prob[0]) / int(scores.length[0]))
    return math.exp(sum(logs) / len(logs))


def ended(editor, request):
    ((located, found),) = editor.seek([request])
    return located, found, search_figures(editor.search, located, found)


@pytest.mark.parametrize("request_", [NEAR, LATER], ids=["first", "later"])
def test_a_search_that_may_not_move_is_marked_and_says_why(tiny_lm, request_):
    editor = tiny_editor(ROME, tiny_lm, options=BOUND)
    located, _, figures = ended(editor, request_)
    assert figures["value_unconverged"] == 1
    before, after = re.findall(r"probability per token went only from (\S+) to ([\d.e-]+)",
                               figures["reason"])[0]  # fmt: skip
    expected = mean_probability(editor, request_)
    assert float(before) == pytest.approx(expected, rel=0.05)
    assert float(after) == pytest.approx(expected, rel=0.2)
    norms = located.values.norm(dim=1)
    assert (
        f"its bound of 0.001 times the value's norm, which is {norms[0]:.2g} in"
        in (figures["reason"])
    )
    assert figures["reason"].endswith(f"{norms[1:].mean():.2g} behind contexts")


def test_a_search_that_learns_the_target_is_not_marked(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2, options=FREE)
    _, found, figures = ended(editor, NEAR)
    assert found.converged
    assert figures["value_unconverged"] == 0
    assert "converge" not in figures.get("reason", "")


def test_the_mark_alone_changes_no_edit(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2, options=BOUND)
    editor.make_edit([LATER])
    assert (editor.record["status"], editor.record["value_unconverged"]) == ("applied", 1)
    assert editor.record["update_norm"] > 0
    editor.restore()


@pytest.mark.parametrize("options", [FREE, BOUND], ids=["free", "bound"])
def test_the_layer_that_would_do_is_the_nearest_where_a_short_search_converges(tiny_gpt2, options):
    editor = ConsistentROME(lm="tiny", layer=2, value=options, second_moment="identity")
    editor.attach(tiny_gpt2, tiny_tokenizer())
    editor.contexts.templates = list(CONTEXTS)
    learnt = []
    for layer in dict.fromkeys(int(share * 2) for share in DEPTHS):
        own = ROME(lm="tiny", layer=layer, value=options, second_moment="identity")
        own.attach(tiny_gpt2, tiny_tokenizer())
        own.contexts.templates = list(CONTEXTS)
        ((_, found),) = own.seek([NEAR])
        learnt += [layer] * found.converged
    assert editor.learnable_layer([NEAR]) == (learnt[0] if learnt else None)
    assert bool(learnt) == (options is FREE)


def test_a_method_that_changes_the_residual_stream_finds_its_layer_too(tiny_gpt2):
    editor = MEMIT(lm="tiny", layers=[2], value=FREE, second_moment="identity")
    editor.attach(tiny_gpt2, tiny_tokenizer())
    editor.contexts.templates = list(CONTEXTS)
    assert editor.learnable_layer([NEAR]) == 1


def test_the_lowest_layer_has_none_below(tiny_gpt2):
    editor = ROME(lm="tiny", layer=0, value=FREE, second_moment="identity")
    editor.attach(tiny_gpt2, tiny_tokenizer())
    editor.contexts.templates = list(CONTEXTS)
    assert editor.learnable_layer([NEAR]) is None
