from copy import deepcopy

import pytest
import torch

from lightning_modules.editing.transforms import SPHERE
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.tokens import collate, request_span
from lightning_modules.methods.alpha_edit import AlphaEdit
from lightning_modules.methods.encore import ENCORE
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME, ConsistentROME
from tests.batches import FAST, REQUESTS, TOKENIZER, check_resumed, check_undone, ready, weights
from tests.tiny import CONTEXTS, EDITED_LAYER, tiny_editor, tiny_model

NORM = 2.5
LIGHT = {"preservation": 1e-9, "layers": [1], "lm": "tiny"}
ANCHORED = ValueSearchOptions(anchor=NORM)


@torch.no_grad()
def output_now(lm, layer, request):
    """The MLP's output at the plain prompt's subject, in one whole pass."""
    span = request_span(TOKENIZER, request.prompt, request.subject, request.target_new)
    batch = collate([span.tokens], lm.device)
    seen = []
    handle = output_map(lm, layer).register_forward_hook(lambda *call: seen.append(call[2]))
    lm(batch.tokens)
    handle.remove()
    return seen[0].reshape(len(span.tokens), -1)[span.subject]


def test_values_do_not_depend_on_how_many_are_searched_together(tiny_lm):
    editor = tiny_editor(ROME, tiny_lm)
    together = editor.seek(REQUESTS)
    editor.search.together = 1
    for (_, one), (_, other) in zip(together, editor.seek(REQUESTS), strict=True):
        assert len(one.losses) == len(other.losses)
        torch.testing.assert_close(one.change, other.change, rtol=1e-3, atol=1e-4)


def test_what_was_searched_ahead_is_taken_until_it_is_forgotten(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    editor.look_ahead([[request] for request in REQUESTS])
    ((_, ahead),) = editor.seek(REQUESTS[:1])
    editor.search.options = ValueSearchOptions(steps=1)
    ((_, same),) = editor.seek(REQUESTS[:1])
    assert same is ahead
    editor.search.forget()
    ((_, anew),) = editor.seek(REQUESTS[:1])
    assert len(anew.losses) == 1


def test_parts_hold_no_more_than_memory_allows(tiny_gpt2):
    search = tiny_editor(ROME, tiny_gpt2).search
    search.together = 3
    assert search.parts(REQUESTS) == [REQUESTS[:3], REQUESTS[3:]]


class TestAnchor:
    """NAS: the MLP's output with the change has the anchor's norm."""

    @pytest.mark.parametrize("contexts", [["{}"], CONTEXTS])
    @pytest.mark.parametrize("method", [ROME, MEMIT])
    def test_output_with_the_change_is_scaled_to_the_anchor(self, tiny_gpt2, method, contexts):
        options = {"lm": "tiny", "layer": EDITED_LAYER} if method is ROME else LIGHT
        plain, editor = (
            ready(method(**options, value=value), tiny_gpt2, contexts)
            for value in (ValueSearchOptions(), ANCHORED)
        )
        for request in REQUESTS:
            ((_, found),), ((_, scaled),) = (one.seek([request]) for one in (plain, editor))
            output = output_now(tiny_gpt2, EDITED_LAYER, request)
            wanted = (output + found.change).double()
            expected = wanted / wanted.norm() * NORM - output
            torch.testing.assert_close(scaled.change.double(), expected, rtol=1e-4, atol=1e-5)
            assert scaled.scale == pytest.approx(NORM / float(wanted.norm()), rel=1e-4)

    def test_the_edited_models_output_has_the_anchors_norm(self):
        lm = tiny_model("gpt2")
        editor = ready(MEMIT(**LIGHT, value=ANCHORED), lm, ["{}"])
        editor.make_edit(REQUESTS)
        assert (editor.record["anchor"], editor.record["status"]) == (NORM, "applied")
        for request in REQUESTS:
            norm = float(output_now(lm, EDITED_LAYER, request).norm())
            assert norm == pytest.approx(NORM, rel=1e-2)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: ROME(1, lm="tiny", value=ANCHORED),
            lambda: ConsistentROME(1, lm="tiny", value=ANCHORED),
            lambda: AlphaEdit(lm="tiny", layers=[1], value=ANCHORED),
            lambda: ENCORE(lm="tiny", layers=[1], value=ANCHORED, transform=SPHERE()),
        ],
        ids=["ROME", "C-ROME", "AlphaEdit", "ENCORE and SPHERE"],
    )
    def test_any_method_can_be_anchored(self, tiny_gpt2, make):
        editor = ready(make(), deepcopy(tiny_gpt2))
        editor.make_edit(REQUESTS)
        assert editor.record["status"] == "applied"
        assert editor.record["value_scale"] > 0

    def test_a_value_far_beyond_the_anchor_is_edited_all_the_same(self):  # B37
        options = ValueSearchOptions(steps=3, learning_rate=100.0, clamp=9.0)
        editor = ready(MEMIT(**LIGHT), tiny_model("gpt2"), ["{}"])
        editor.search.options, editor.search.anchor = options, 1e-2
        before = weights(editor)
        editor.make_edit(REQUESTS[:1])
        assert editor.record["status"] == "applied"
        assert editor.record["value_scale"] < 0.5
        assert not torch.equal(weights(editor)[0], before[0])

    def test_edits_made_ahead_are_anchored_too(self):
        editor = ready(MEMIT(**LIGHT, value=ANCHORED), tiny_model("gpt2"), ["{}"])
        editor.make_ahead([[request] for request in REQUESTS])
        scales = [made.record["value_scale"] for made in editor.sweep.made]
        expected = [found.scale for _, found in editor.seek(REQUESTS)]
        assert scales == pytest.approx(expected, rel=1e-4)

    def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(self, tiny_gpt2):
        def make():
            return MEMIT(1.0, layers=[0, 1], lm="tiny", history=True, value=ANCHORED)

        check_resumed(make, tiny_gpt2)

    def test_undone_edit_leaves_no_trace(self):
        editor = MEMIT(1.0, layers=[0, 1], lm="tiny", history=True, value=ANCHORED)
        check_undone(ready(editor, tiny_model("gpt2")))


def test_a_search_that_ends_above_its_goal_is_unmet(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2, options=FAST)
    ((_, found),) = editor.seek(REQUESTS[:1])
    assert editor.search.unmet(found) == (found.losses[-1] >= FAST.goal)
    assert not editor.search.unmet(found._replace(losses=[FAST.goal / 2]))
