from collections import Counter

from data_modules.records import EditRequest, Probe
from lightning_modules.editing.prefixes import PromptPrefix, context_of
from tests.tiny import CONTEXTS

REQUEST = EditRequest(
    5, "{} is the capital of", "Paris", "Peru", "France", ("The seat of Paris is",),
    (Probe("Rome is the capital of", "Italy"),),
)  # fmt: skip


def test_a_context_stands_before_the_prompt_and_nowhere_else():
    asked = PromptPrefix("all").before(REQUEST, CONTEXTS[1])
    assert asked.text == "The river is long. Paris is the capital of"
    assert asked == REQUEST._replace(prompt="The river is long. {} is the capital of")


def test_it_stands_before_paraphrases_if_they_are_to_have_it():
    asked = PromptPrefix("all", paraphrases=True).before(REQUEST, CONTEXTS[2])
    assert asked.paraphrases == ("You and I. The seat of Paris is",)
    assert asked.neighborhood == REQUEST.neighborhood


def test_a_request_has_the_same_context_each_time_and_requests_have_all_but_the_plain_one():
    drawn = [context_of(REQUEST._replace(case_id=n), ["{}"] * 5, seed=3) for n in range(400)]
    assert drawn == [
        context_of(REQUEST._replace(case_id=n), ["{}"] * 5, seed=3) for n in range(400)
    ]
    counts = Counter(drawn)
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 60
    assert drawn != [
        context_of(REQUEST._replace(case_id=n), ["{}"] * 5, seed=4) for n in range(400)
    ]
