import pytest
import torch

from data_modules.records import EditRequest, WatchedText
from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.sweep import Made, Sweep
from lightning_modules.methods.rome import ROME
from tests.tiny import tiny_editor

REQUESTS = [
    EditRequest(7, "{} plays the", "He", "violin"),
    EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
    EditRequest(9, "The capital of {} is", "Greece", "Rome"),
]
TEXTS = WatchedText([0, 1], ["The river is long and green.", "Anna plays the guitar."])
BATCHES = [REQUESTS[:1], REQUESTS[1:]]


def nll_one_by_one(editor: ROME) -> list[torch.Tensor]:
    found = []
    for requests in BATCHES:
        editor.make_edit(requests)
        found.append(editor.watch(TEXTS).nll)
        editor.restore()
    return found


def test_edits_of_different_rank_are_watched_as_one_by_one(tiny_lm):
    editor = tiny_editor(ROME, tiny_lm)
    expected = nll_one_by_one(editor)
    before = editor.edited.snapshot()
    updates = []
    for requests in BATCHES:
        editor.make_edit(requests)
        updates.append(list(editor.applied))
        editor.undo()
    made = [Made(*pair, {}, {}) for pair in zip(BATCHES, updates, strict=True)]
    sweep = Sweep(editor.edited, made)
    for requests, edit, nll in zip(BATCHES, made, expected, strict=True):
        assert sweep.find(requests) is edit
        seen = sweep.watch(TEXTS, editor.watch)
        torch.testing.assert_close(seen.nll, nll, rtol=1e-5, atol=1e-5)
    assert [len(part) for part in updates] == [1, 2]
    assert editor.edited.distance(before) == 0
    editor.restore()


def test_an_edit_that_failed_is_watched_as_the_model_it_left(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    plain = editor.watch(TEXTS).nll
    editor.make_edit(BATCHES[0])
    made = [Made(BATCHES[0], list(editor.applied), {}, {}), Made(BATCHES[1], [], {}, {})]
    editor.undo()
    sweep = Sweep(editor.edited, made)
    assert sweep.find(BATCHES[1]) is made[1]
    torch.testing.assert_close(sweep.watch(TEXTS, editor.watch).nll, plain)
    assert sweep.find(REQUESTS) is None
    assert (sweep.watched[0, 1][0].nll - plain).abs().max() > 1e-4


def test_edits_that_all_failed_are_the_original_model(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    sweep = Sweep(editor.edited, [Made(requests, [], {}, {}) for requests in BATCHES])
    assert sweep.find(BATCHES[0])
    torch.testing.assert_close(sweep.watch(TEXTS, editor.watch).nll, editor.watch(TEXTS).nll)


def test_dense_updates_are_not_watched_together(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    dense = Update(editor.edited_weights()[0], torch.zeros(32, 48))
    sweep = Sweep(editor.edited, [Made(BATCHES[0], [dense], {}, {})])
    assert sweep.find(BATCHES[0])
    assert sweep.watch(TEXTS, editor.watch) is None


@pytest.mark.parametrize("anchor", [None, 2.0])
def test_later_requests_of_a_batch_are_searched_behind_the_first_ahead_too(tiny_gpt2, anchor):
    editor = tiny_editor(ROME, tiny_gpt2)
    editor.search.anchor = anchor
    one_by_one = []
    for requests in BATCHES:
        editor.make_edit(requests)
        one_by_one.append([update.dense() for update in editor.applied])
        editor.restore()
    editor.make_ahead(BATCHES)
    for made, expected in zip(editor.sweep.made, one_by_one, strict=True):
        for update, change in zip(made.updates, expected, strict=True):
            torch.testing.assert_close(update.dense(), change, rtol=1e-4, atol=1e-6)


def test_a_restored_model_is_watched_as_it_is(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    plain = editor.watch(TEXTS).nll
    editor.make_ahead(BATCHES)
    editor.remake(editor.sweep.find(BATCHES[0]))
    edited = editor.validation_step(TEXTS, 0).nll
    editor.restore()
    assert (edited - plain).abs().max() > 1e-4
    torch.testing.assert_close(editor.validation_step(TEXTS, 0).nll, plain)
