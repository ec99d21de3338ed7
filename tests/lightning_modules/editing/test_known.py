import pytest

from data_modules.records import EditRequest
from lightning_modules.editing.known import begins, known_of_both_kinds
from lightning_modules.language_model.tokens import encode
from lightning_modules.methods.rome import ROME
from tests.lightning_modules.jobs.test_layer_tracing import knowing
from tests.tiny import tiny_tokenizer

FIRST = EditRequest(1, "{} plays", "He", "Rome", "the")
LATER = EditRequest(2, "The capital of {} is", "France", "Rome", "the")
MORE = EditRequest(3, "{} plays", "I", "Rome", "the")
UNKNOWN = EditRequest(4, "{} lived in", "Mary", "Rome", "Athens")
SILENT = EditRequest(5, "{} wrote", "Peter", "Rome")
ALL = [SILENT, LATER, UNKNOWN, MORE, FIRST]


@pytest.fixture(scope="module")
def model():
    editor = ROME(lm="tiny", layer=1)
    editor.attach(*knowing())
    return editor


def test_the_first_known_facts_of_each_kind_are_taken_in_turn(model):
    assert known_of_both_kinds(model, ALL, {True: 1, False: 1}) == {MORE: True, LATER: False}
    assert list(known_of_both_kinds(model, ALL, {True: 5, False: 5})) == [MORE, FIRST, LATER]


def test_a_kind_that_the_model_does_not_know_is_refused(model):
    with pytest.raises(ValueError, match="'tiny' states 1 of the 3 facts, and none of one kind"):
        known_of_both_kinds(model, [SILENT, LATER, UNKNOWN], {True: 1, False: 1})


@pytest.mark.parametrize("bos", [False, True])
def test_a_subject_begins_a_prompt_whatever_special_tokens_are_before_it(bos):
    editor = ROME(lm="tiny", layer=1)
    editor.tokenizer = tiny_tokenizer(bos)
    assert len(encode(editor.tokenizer, "He").tokens) == 1 + bos
    assert begins(editor, FIRST)
    assert not begins(editor, LATER)
    assert not begins(editor, FIRST._replace(subject="Danielle Vinson"))
