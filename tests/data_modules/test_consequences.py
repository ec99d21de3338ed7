"""The wordings make sense: every consequence names its subject and gives no answer away."""

import json
import re
from itertools import chain

import pytest

from data_modules.consequences import Consequences
from data_modules.embedded import FOLDER, embedded_requests
from data_modules.records import EditRequest

KNOWN = Consequences()
REQUESTS = {request.case_id: request for request in embedded_requests()}
ALL = [(request, told) for request in REQUESTS.values() for told in KNOWN.of(request)]
FACTS = json.loads((FOLDER / "facts.json").read_text())
DENIAL = re.compile(r"\b(not|never)\b")


def of_kind(kind):
    return [(request, told) for request, told in ALL if told.kind == kind]


def test_every_relation_can_be_denied_and_reversed():
    assert len(of_kind("negation")) == len(REQUESTS)
    assert len(of_kind("reversal")) == len(REQUESTS)
    assert {request.prompt for request, _ in of_kind("negation")} == {f["prompt"] for f in FACTS}


def test_a_denial_is_the_prompt_with_a_word_of_denial_more():
    for request, told in of_kind("negation"):
        assert len(DENIAL.findall(told.prompt)) == 1
        assert (told.answer, told.rival) == (request.target_true, request.target_new)
        words = {word[:4] for word in re.findall(r"\w+", DENIAL.sub("", told.prompt))}
        before = {word[:4] for word in re.findall(r"\w+", request.text)}
        assert len(before - words) <= 1  # a verb may take another form: has, does not have
        assert len(words - before) <= 2


def test_a_reversed_fact_asks_for_the_subject_by_the_new_answer():
    answers = {}
    for relation in FACTS:
        answers[relation["prompt"]] = relation["facts"]
    for request, told in of_kind("reversal"):
        assert request.target_new.lower() in told.prompt.lower()
        assert (told.answer, request.subject in told.prompt) == (request.subject, False)
        assert answers[request.prompt][told.rival] != request.target_new
        assert told.rival != request.subject


def test_one_hop_further_lies_a_fact_about_either_answer():
    facts = {(f["prompt"], s): a for f in FACTS for s, a in f["facts"].items()}
    found = of_kind("one_hop")
    assert len(found) > 150
    for request, told in found:
        assert request.subject in told.prompt
        further = {prompt for prompt, subject in facts if subject == request.target_new}
        assert any(facts[p, request.target_new] == told.answer for p in further)
        assert any(facts.get((p, request.target_true)) == told.rival for p in further)


@pytest.mark.parametrize("kind", ["negation", "one_hop"])
def test_no_prompt_gives_its_answer_away(kind):
    for _, told in of_kind(kind):
        asked = told.prompt.replace("New York", "")
        assert not re.search(rf"\b{re.escape(told.answer)}$", asked)
        assert told.answer != told.rival


def test_prompts_read_as_sentences():
    for _, told in ALL:
        assert "{}" not in told.prompt
        assert "  " not in told.prompt
        assert "the the " not in told.prompt.lower()
        assert told.prompt[0].isupper() or told.prompt[0] in "0123456789"


def test_examples_read_right():
    told = {(r.text, t.kind): t for r, t in ALL}
    texts = {t.prompt for t in told.values()}
    assert "The mother tongue of Victor Hugo is not" in texts
    assert any(text.startswith("The capital of") or "capital" in text for text in texts)
    hops = [t.prompt for _, t in of_kind("one_hop")]
    assert any(re.fullmatch(r"The mother tongue of .* belongs to the group of .*", h) for h in hops)


def test_a_request_of_other_data_has_none():
    assert KNOWN.of(EditRequest(1, "{} was born in", "Ada", "Paris", "London")) == []
    assert list(chain(KNOWN.of(EditRequest(1, "x", "", "Paris")))) == []
