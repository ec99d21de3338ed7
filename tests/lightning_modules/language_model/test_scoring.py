import copy
import random

import pytest
import torch
from transformers import PreTrainedModel

from lightning_modules.language_model import scoring
from lightning_modules.language_model.scoring import Batching, Scores, score
from lightning_modules.language_model.tokens import Span, target_span, text_span
from tests.benchmarks.shapes import lengths_like_me_ppl
from tests.tiny import WORDS, tiny_model, tiny_tokenizer

BATCHES = pytest.mark.parametrize("batch_tokens", [1, 40, 2048])


def spans() -> list[Span]:
    """Texts and targets of many lengths, in no order."""
    tokenizer, draw, words = tiny_tokenizer(bos=True), random.Random(0), WORDS.split()
    texts = [" ".join(draw.choices(words, k=draw.randint(2, 12))) for _ in range(8)]
    targets = [target_span(tokenizer, text, "Rome, Italy") for text in texts]
    mixed = [text_span(tokenizer, text) for text in texts] + targets
    draw.shuffle(mixed)
    return mixed


def reference(lm: PreTrainedModel, span: Span) -> tuple[float, int]:
    """Log-probability and greedy hits of one span, from its logits everywhere."""
    log_probs = lm(torch.tensor([span.tokens])).logits[0].float().double().log_softmax(-1)
    read, targets = log_probs[span.start - 1 : -1], torch.tensor(span.tokens[span.start :])
    chosen = read[torch.arange(len(targets)), targets]
    return float(chosen.sum()), int((read.argmax(-1) == targets).sum())


def check(lm: PreTrainedModel, scores: Scores, scored: list[Span]) -> None:
    log_probs, greedy = zip(*(reference(lm, span) for span in scored), strict=True)
    assert scores.log_prob.dtype == torch.float64
    assert scores.length.tolist() == [len(span.tokens) - span.start for span in scored]
    assert scores.greedy.tolist() == list(greedy)
    nll = -torch.tensor(log_probs, dtype=torch.float64) / scores.length
    torch.testing.assert_close(scores.nll.exp(), nll.exp(), rtol=1e-6, atol=0)


def in_float64(lm: PreTrainedModel) -> PreTrainedModel:
    """A copy in which padding does not change a logit's last digit."""
    lm = copy.deepcopy(lm).double()
    if lm.config.model_type == "gemma2":
        # its eager attention gives NaN in float64, and there only, where a window is all padding
        lm.config.sliding_window = 128
    return lm


@BATCHES
def test_scores_equal_a_float64_log_softmax_everywhere(tiny_lm, batch_tokens):
    lm = in_float64(tiny_lm)
    check(lm, score(lm, spans(), Batching(batch_tokens)), spans())


@BATCHES
def test_scores_of_a_collapsed_model_are_exact(batch_tokens):
    lm = tiny_model("llama").double()
    lm.lm_head.weight *= 100.0
    scores = score(lm, spans(), Batching(batch_tokens))
    assert 200 < scores.nll.mean() < 700
    check(lm, scores, spans())


def test_float32_model_scores_close_to_its_reference(tiny_lm):
    scores = score(tiny_lm, spans(), Batching(200))
    for number, span in enumerate(spans()):
        assert float(scores.log_prob[number]) == pytest.approx(
            reference(tiny_lm, span)[0], rel=1e-4
        )


def test_greedy_counts_the_tokens_that_the_model_would_say(tiny_gpt2):
    said = spans()[0].tokens[:3]
    for _ in range(6):
        said.append(int(tiny_gpt2(torch.tensor([said])).logits[0, -1].argmax()))
    missed = [*said[:-1], (said[-1] + 1) % 256]
    scores = score(tiny_gpt2, [Span(said, 3), Span(missed, 3), Span(said, 7)])
    assert scores.greedy.tolist() == [6, 5, 2]


def test_guesses_are_what_the_model_would_say_at_each_place(tiny_lm):
    lm, scored = in_float64(tiny_lm), spans()
    expected = [
        lm(torch.tensor([span.tokens])).logits[0, span.start - 1 : -1].argmax(-1) for span in scored
    ]
    assert torch.equal(score(lm, scored, Batching(200)).guesses, torch.cat(expected))
    twice = score(lm, scored, Batching(200), copies=2).guesses
    assert torch.equal(twice, torch.cat([*expected, *expected]))


def test_span_without_target_scores_nothing(tiny_gpt2):
    scores = score(tiny_gpt2, [Span([5, 6, 7], 3), Span([5, 6], 1)], batching=Batching(1))
    assert scores.length.tolist() == [0, 1]
    assert scores.log_prob[0] == 0
    assert scores.log_prob[1] < 0


@pytest.mark.parametrize(("copies", "fits"), [(1, 3), (1, 1), (2, 4)])
def test_a_batch_that_does_not_fit_into_memory_is_scored_in_halves(
    tiny_gpt2, monkeypatch, copies, fits
):
    spans = [Span([9, 8, 300, 71, 12, 44, 90], 1), Span([5, 6, 7], 2), Span([33, 1, 401, 2], 1)] * 3
    expected = scoring.score(tiny_gpt2, spans, copies=copies)
    whole, tried = scoring._token_scores, []

    def narrow(lm, chosen, lower, copies):
        tried.append(len(chosen) * copies)
        if tried[-1] > fits:
            raise torch.OutOfMemoryError
        return whole(lm, chosen, lower, copies)

    monkeypatch.setattr(scoring, "_token_scores", narrow)
    found = scoring.score(tiny_gpt2, spans, copies=copies)
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=1e-6, atol=1e-5)
    assert torch.equal(found.greedy, expected.greedy)
    assert max(tried) > fits


def test_a_text_that_does_not_fit_into_memory_is_told(tiny_gpt2, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(scoring, "_token_scores", full)
    with pytest.raises(MemoryError, match="a text of 3 tokens does not fit into the memory of cpu"):
        scoring.score(tiny_gpt2, [Span([5, 6, 7], 1)])


def test_answers_of_one_token_to_the_same_question_are_read_once(tiny_llama):
    rows = []
    handle = tiny_llama.model.layers[0].register_forward_hook(
        lambda module, args, output: rows.append(len(args[0]))
    )
    question = [33, 1, 401, 2]
    spans = [Span([*question, answer], 4) for answer in (5, 6, 7)] + [Span([9, 8, 5, 6], 2)]
    together = score(tiny_llama, spans, copies=2)
    handle.remove()
    assert rows == [2 * 2]
    alone = [score(tiny_llama, [span]) for span in spans * 2]
    for field in ("log_prob", "greedy", "length", "guesses"):
        expected = torch.cat([getattr(scores, field) for scores in alone])
        torch.testing.assert_close(getattr(together, field), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("batching", "passes"),
    [(Batching(), 6), (Batching(padding=0.4), 2), (Batching(4096, 0.6), 1)],
    ids=["little padding", "few passes", "a single pass"],
)
def test_fifty_sentences_are_scored_in_few_passes_if_padding_may_be_large(
    tiny_gpt2, monkeypatch, batching, passes
):
    lengths = lengths_like_me_ppl(50, 59)
    scored = [Span([(7 * at + n) % 400 for at in range(n)], 1) for n in lengths]
    expected = score(tiny_gpt2, scored)
    whole, run = scoring._token_scores, []
    monkeypatch.setattr(scoring, "_token_scores", lambda *args: run.append(1) or whole(*args))
    found = score(tiny_gpt2, scored, batching)
    assert len(run) == passes
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-6, atol=0)
    assert torch.equal(found.guesses, expected.guesses)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"tokens": 0}, "at least 1 token, got tokens 0"), ({"padding": 1.0}, "got 1.0")],
)
def test_batches_without_room_are_refused(options, why):
    with pytest.raises(ValueError, match=why):
        Batching(**options)
