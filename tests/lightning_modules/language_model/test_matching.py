import re
import string
from itertools import product

import pytest
from lm_eval.api.metrics import exact_match_hf_evaluate
from torchmetrics.functional.text import squad

from lightning_modules.language_model.matching import (
    begins_with,
    names,
    nq_open,
    squad_v2,
    squad_words,
    word_f1,
)
from tests.harness import ROOT, load_yaml

TEXTS = [
    "The Beatles",
    "beatles",
    " the  beatles. ",
    "A. A. Milne",
    "an apple a day",
    "in the 10th and 11th centuries",
    "10th and 11th centuries",
    "The the",
    "U.S.",
    "Étienne",
    "",
]


@pytest.mark.parametrize(("said", "gold"), product(TEXTS, TEXTS))
def test_natural_questions_are_matched_as_the_harness_matches_them(said, gold):
    (metric,) = load_yaml(ROOT / "nq_open/nq_open.yaml")["metric_list"]
    options = {k: v for k, v in metric.items() if k.startswith(("ignore", "regexes"))}
    theirs = exact_match_hf_evaluate([said.strip()], [gold], **options)["exact_match"]
    assert nq_open(said, [gold]) == {"nq_open": theirs}


def test_any_of_the_answers_will_do():
    assert nq_open(" Bobby Scott", ["Bob Russell", "bobby scott"]) == {"nq_open": 1}
    assert squad_v2("Rollo", ["the Rollo", "of Rollo"])["squad_v2_f1"] == 1


@pytest.mark.parametrize(("said", "gold"), product(TEXTS[:-1], TEXTS[:-1]))
def test_answered_questions_are_matched_as_squads_authors_do(said, gold):
    wanted = {"answers": {"text": [gold], "answer_start": [0]}, "id": "0"}
    theirs = squad({"prediction_text": said, "id": "0"}, wanted)
    found = squad_v2(said, [gold])
    assert 100 * found["squad_v2_exact_match"] == theirs["exact_match"]
    assert 100 * found["squad_v2_f1"] == pytest.approx(float(theirs["f1"]))


def slow_words(text):
    lower = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", lower).split()


def slow_f1(said, gold):
    left, common = slow_words(gold), 0
    for word in slow_words(said):
        if word in left:
            left.remove(word)
            common += 1
    precision, recall = common / len(slow_words(said)), common / len(slow_words(gold))
    return 2 * precision * recall / (precision + recall) if common else 0.0


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    said, gold = "the 10th and the 11th century", "in the 10th and 11th centuries and 10th"
    assert squad_words(said) == ["10th", "and", "11th", "century"]
    assert word_f1(squad_words(said), squad_words(gold)) == pytest.approx(slow_f1(said, gold))
    assert 0 < slow_f1(said, gold) < 1


@pytest.mark.parametrize(("said", "right"), [("", 1), (" . ", 1), ("the", 1), ("unanswerable", 0)])
def test_where_there_is_no_answer_only_silence_is_right(said, right):
    assert squad_v2(said, []) == {"squad_v2_exact_match": right, "squad_v2_f1": right}


def test_silence_is_wrong_where_there_is_an_answer():
    assert squad_v2("", ["Rollo"]) == {"squad_v2_exact_match": 0, "squad_v2_f1": 0}
    assert squad_v2("The", ["a", "Rollo"])["squad_v2_exact_match"] == 0


@pytest.mark.parametrize(
    ("said", "begins", "holds"),
    [
        (" New York, and", True, True),
        ("It is new york.", False, True),
        ("New Yorkers", False, False),
        ("York New", False, False),
        ("", False, False),
    ],
)
def test_an_answer_is_found_word_by_word(said, begins, holds):
    assert begins_with(said, "New York") is begins
    assert names(said, "New York") is holds
    assert not begins_with(said, "?")
    assert not names(said, "?")
