import pytest
import torch

from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.methods.batch import seek_batch
from lightning_modules.methods.emmet import BatchROME
from tests.batches import REQUESTS, ready
from tests.tiny import EDITED_LAYER


def batch_editor(lm) -> BatchROME:
    editor = ready(BatchROME(EDITED_LAYER, lm="tiny"), lm)
    editor.search.options = ValueSearchOptions(steps=2, goal=1e9)
    return editor


def test_contradicted_request_is_left_out_and_named(tiny_gpt2):
    editor = batch_editor(tiny_gpt2)
    other = REQUESTS[0]._replace(case_id=99, target_new="guitar")
    sought = seek_batch(editor, [*REQUESTS, other])
    assert sought.requests == [other, *REQUESTS[1:]]
    assert editor.record["reason"] == (
        "case 7 was left out: case 99 of the same batch wants 'guitar' of the same subject and "
        "prompt"
    )


def test_repeated_request_is_sought_once_without_a_word(tiny_gpt2):
    editor = batch_editor(tiny_gpt2)
    assert len(seek_batch(editor, [REQUESTS[0], REQUESTS[1], REQUESTS[0]]).requests) == 2
    assert "reason" not in editor.record


def test_other_prompts_about_one_subject_are_no_contradiction(tiny_gpt2):
    editor = batch_editor(tiny_gpt2)
    other = REQUESTS[0]._replace(prompt="{} lived in", target_new="Rome")
    assert len(seek_batch(editor, [REQUESTS[0], other]).requests) == 2


def test_journal_has_the_means_of_all_searches(tiny_gpt2):
    editor = batch_editor(tiny_gpt2)
    sought = seek_batch(editor, REQUESTS)
    losses = [found.losses[-1] for found in sought.found]
    assert editor.record["value_loss"] == pytest.approx(sum(losses) / len(losses))
    assert editor.record["value_steps"] == 1


def test_journal_counts_the_searches_above_their_goal(tiny_gpt2):
    editor = batch_editor(tiny_gpt2)
    editor.search.options = ValueSearchOptions(steps=1, goal=0.0)
    seek_batch(editor, REQUESTS)
    assert editor.record["reason"] == "4 of 4 value searches ended above their goal 0"


def test_search_that_is_not_finite_fails_the_batch(tiny_gpt2, monkeypatch):
    editor = batch_editor(tiny_gpt2)
    seek = editor.seek

    def poisoned(requests):
        *fine, (located, found) = seek(requests)
        return [*fine, (located, found._replace(losses=[float("nan")]))]

    monkeypatch.setattr(editor, "seek", poisoned)
    editor.make_edit(REQUESTS)
    assert editor.record["status"] == "failed"
    assert "loss is nan at step 1" in editor.record["reason"]


def test_wanted_values_are_one_column_per_request(tiny_gpt2):
    sought = seek_batch(batch_editor(tiny_gpt2), REQUESTS)
    for column, located, found in zip(sought.wanted().T, sought.located, sought.found, strict=True):
        assert torch.equal(column, located.values[0] + found.change)
