from functools import partial

import pytest
import torch

from data_modules.records import EditRequest, Probe
from lightning_modules.language_model.judging import (
    MEASURES,
    Answer,
    answers,
    measures,
    neighbors,
    questions,
)
from lightning_modules.language_model.scoring import score
from tests.tiny import tiny_model, tiny_tokenizer

REQUEST = EditRequest(
    case_id=7,
    prompt="The mother tongue of {} is",
    subject="Danielle Vinson",
    target_new="Latin",
    target_true="Dutch",
    paraphrases=("Vinson speaks", "Vinson wrote in"),
    neighborhood=(Probe("Anna speaks", "Russian"), Probe("Mary Apple was born in", "New London")),
    portability=(Probe("Vinson lives in the city of", "Old Rome"),),
    attributes=("Peter lived in", "The language of Paris is"),
)
LONELY = EditRequest(8, "{} plays the", "Miles Davis", "violin")


@pytest.fixture(scope="module")
def ask():
    lm = tiny_model("llama")
    return partial(score, lm), tiny_tokenizer(bos=True), lm


def judge(ask, request):
    """The measures of a request on its own."""
    return measures(answers(*ask[:2], [questions(request)])[0])


def tokens_and_logits(ask, prompt, answer):
    """An answer's tokens and the logits at their places, from one pass over the whole text."""
    _, tokenizer, lm = ask
    tokens = tokenizer(f"{prompt} {answer}")["input_ids"]
    start = len(tokenizer(prompt)["input_ids"])
    logits = lm(torch.tensor([tokens])).logits[0, start - 1 : -1].double()
    return torch.tensor(tokens[start:]), logits


def probability(ask, prompt, answer):
    tokens, logits = tokens_and_logits(ask, prompt, answer)
    return float(logits.log_softmax(-1).gather(1, tokens[:, None]).mean().exp())


def hits(ask, prompt, answer):
    tokens, logits = tokens_and_logits(ask, prompt, answer)
    return (logits.argmax(-1) == tokens).tolist()


def mean(values):
    return sum(values) / len(values)


def test_every_measure_equals_its_slow_definition(ask):
    found = judge(ask, REQUEST)
    for name, group in questions(REQUEST).items():
        hit = [hits(ask, q.prompt, q.wanted) for q in group]
        assert found[f"{name}_token_accuracy"] == pytest.approx(mean([mean(h) for h in hit]))
        assert found[f"{name}_exact_match"] == mean([all(h) for h in hit])
        if name != "portability":
            ours = [probability(ask, q.prompt, q.wanted) for q in group]
            theirs = [probability(ask, q.prompt, q.rival) for q in group]
            pairs = list(zip(ours, theirs, strict=True))
            assert found[name] == mean([a > b for a, b in pairs])
            assert found[f"{name}_magnitude"] == pytest.approx(mean([a - b for a, b in pairs]))


def test_requests_asked_together_answer_as_each_alone(ask):
    together = answers(*ask[:2], [questions(REQUEST), questions(LONELY)])
    for groups, request in zip(together, (REQUEST, LONELY), strict=True):
        assert measures(groups) == pytest.approx(judge(ask, request), rel=1e-5)


def test_what_a_request_cannot_tell_is_absent(ask):
    found = judge(ask, LONELY)
    assert found.keys() == {"efficacy_token_accuracy", "efficacy_exact_match"}
    assert answers(*ask[:2], []) == []


def test_an_answer_matches_exactly_if_all_its_tokens_are_greedy():
    group = [Answer(1.0, None, matched, []) for matched in (1.0, 2 / 3, 1.0, 0.0)]
    found = measures({"paraphrase": group})
    assert found == {
        "paraphrase_exact_match": 0.5,
        "paraphrase_token_accuracy": pytest.approx(2 / 3),
    }


def test_agreement_is_the_share_of_tokens_that_the_unedited_model_says_too(ask):
    edited = tiny_model("llama", seed=1)
    (before,) = answers(*ask[:2], [neighbors(REQUEST)])
    (after,) = answers(partial(score, edited), ask[1], [neighbors(REQUEST)])
    both = [
        (
            tokens_and_logits(ask, *p[:2])[1].argmax(-1),
            tokens_and_logits((0, ask[1], edited), *p[:2])[1],
        )
        for p in REQUEST.neighborhood
    ]
    expected = mean([float((a == b.argmax(-1)).double().mean()) for a, b in both])
    old = [answer.guesses for answer in before["neighborhood"]]
    assert measures(after, old)["neighborhood_agreement"] == pytest.approx(expected)
    assert measures(before, old)["neighborhood_agreement"] == 1.0
    (everything,) = answers(*ask[:2], [questions(REQUEST)])
    assert measures(everything, old).keys() == MEASURES


def test_agreement_counts_within_each_neighbor_first():
    group = [Answer(1.0, None, 0.0, [1, 2, 3, 4]), Answer(1.0, None, 0.0, [5])]
    assert measures({"neighborhood": group}, [[1, 2, 3, 9], [9]])["neighborhood_agreement"] == 3 / 8
