"""The embedded model is what docs/embedded.md says it is."""

import pytest

from data_modules.embedded import FOLDER, embedded_requests, embedded_sentences
from data_modules.forms.tasks import TaskOptions, read_tasks, subset
from lightning_modules.editing.second_moments import load_second_moment
from lightning_modules.language_model.answering import choose
from lightning_modules.language_model.loading import fingerprint, load
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.tokens import request_span, target_span, text_span


@pytest.fixture(scope="module")
def embedded():
    return load("embedded")


def test_it_states_its_facts(embedded):
    lm, tokenizer = embedded
    spans = [target_span(tokenizer, r.text, r.target_true) for r in embedded_requests()]
    scores = score(lm, spans)
    assert float((scores.greedy == scores.length).double().mean()) >= 0.9


def test_its_perplexity_is_sane(embedded):
    lm, tokenizer = embedded
    scores = score(lm, [text_span(tokenizer, text) for text in embedded_sentences()])
    assert float(scores.nll.exp().mean()) < 200


@pytest.mark.parametrize("name", ["lambada", "hellaswag", "piqa"])
def test_it_solves_the_tasks_that_ask_for_its_facts(embedded, name):
    lm, tokenizer = embedded
    items = subset(read_tasks(TaskOptions([name]))[name], 30)
    found = choose(lambda spans: score(lm, spans), tokenizer, items, 512)
    assert sum(answer[name] for answer in found) / len(found) > 0.8


def test_one_word_subjects_are_first_tokens(embedded):
    _, tokenizer = embedded
    first = [r for r in embedded_requests() if r.prompt.startswith("{}") and r.subject.isalpha()]
    spans = [request_span(tokenizer, r.prompt, r.subject, r.target_new) for r in first]
    assert sum(span.subject == 0 for span in spans) >= 120


@pytest.mark.parametrize("layer", range(6))
def test_every_layer_has_its_second_moment(embedded, layer):
    moment = load_second_moment(None, "embedded", fingerprint(*embedded), layer)
    assert moment.shape == (1280, 1280)


def test_its_weights_are_small_enough_to_ship():
    assert (FOLDER / "lm" / "model.safetensors").stat().st_size <= 20 * 2**20
