import pytest

from data_modules.forms.fields import FaultyRecordError, Record
from data_modules.forms.zsre import qaedit, zsre
from data_modules.records import Probe

ZSRE = {
    "subject": "Charity Creek",
    "src": "Which river does Charity Creek join?",
    "pred": "Nile",
    "rephrase": "What river system is Charity Creek in?",
    "alt": "Rhine",
    "answers": ["Parramatta River", "Parramatta"],
    "loc": "nq question: how many legs has a spider",
    "loc_ans": "8",
}
QAEDIT = {
    "id": 11,
    "prompt": "who wrote the tale of the heron?",
    "target": "Ada",
    "subject": "Tale of the Heron",
    "rephrase": "Whose work is it?",
    "locality": [
        {"loc": "who sang it", "loc_ans": "Bo"},
        {"loc": "when was it", "loc_ans": "1994"},
    ],
}


def test_zsre_is_read() -> None:
    request = zsre(Record("x", 5, ZSRE))
    assert request.case_id == 5
    assert request.prompt == "Which river does {} join?"
    assert (request.target_new, request.target_true) == ("Rhine", "Parramatta River")
    assert request.paraphrases == ("What river system is Charity Creek in?",)
    assert request.neighborhood == (Probe("nq question: how many legs has a spider", "8"),)


@pytest.mark.parametrize(("pred", "true"), [("Nile", "Nile"), (None, "")])
def test_the_guess_stands_in_for_missing_answers(pred: str | None, true: str) -> None:
    assert zsre(Record("x", 5, ZSRE | {"answers": [], "pred": pred})).target_true == true


def test_qaedit_is_read_without_a_true_answer() -> None:
    request = qaedit(Record("x", 0, QAEDIT))
    assert request.case_id == 11
    assert request.prompt == "who wrote the {}?"
    assert (request.subject, request.target_new) == ("tale of the heron", "Ada")
    assert request.target_true == ""
    assert request.neighborhood == (Probe("who sang it", "Bo"), Probe("when was it", "1994"))


@pytest.mark.parametrize(
    ("locality", "message"),
    [
        ("none", "field 'locality' must be a list"),
        ([{"loc": "who"}], "case 11.*'locality.loc_ans' must have an answer"),
    ],
)
def test_faulty_locality_is_refused(locality: object, message: str) -> None:
    with pytest.raises(FaultyRecordError, match=message):
        qaedit(Record("x", 0, QAEDIT | {"locality": locality}))


def test_an_empty_new_answer_is_refused() -> None:
    with pytest.raises(FaultyRecordError, match=r"record 5 \(case 5\): field 'alt' is blank"):
        zsre(Record("x", 5, ZSRE | {"alt": ""}))
