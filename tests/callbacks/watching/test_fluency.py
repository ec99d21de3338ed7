import json
import unicodedata
from statistics import fmean

import pytest
import torch

from callbacks.keeping.journal import EditJournal
from callbacks.watching.fluency import FluencyMetrics, as_published
from callbacks.watching.references import References, tfidf_cosine
from callbacks.watching.text_measures import ngram_entropy, nltk_words
from lightning_modules.language_model.text_sampling import sample_texts
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, trainer_in

LENGTH = 30
PARIS = REQUESTS[0]._replace(
    generation=("Paris is", "Paris is", "One can reach Paris by"),
    relation_id="P17",
    target_id="Q419",
)
ASKED = [PARIS, *REQUESTS[1:3]]
TEXTS = {"Lima": "Lima is in Peru.", "Paris": "Paris is a town of Peru, which lies in the north."}


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    file = tmp_path_factory.mktemp("references") / "snippets.json"
    samples = [{"name": name, "text": text} for name, text in TEXTS.items()]
    own = {"relation_id": "P17", "target_id": "Q419", "samples": samples}
    file.write_text(json.dumps([own]))
    return str(file)


@pytest.fixture(scope="module")
def run(lm, references, tmp_path_factory):
    callbacks = [EditJournal(), FluencyMetrics(1, references, length=LENGTH)]
    return fit(lm, tmp_path_factory.mktemp("run"), callbacks, ASKED, limit_val_batches=0)


def slow(editor, references):
    """The measures of the first request on the editor's model, one text at a time."""
    metrics = FluencyMetrics(length=LENGTH)
    texts = []
    for number, prompt in enumerate(PARIS.generation):
        draws = metrics.draws(f"{editor.seed} {PARIS.identity} {number}")
        texts += sample_texts(editor.lm, editor.tokenizer, [prompt], draws[None])
    weights = References(references).weights
    tokens = editor.tokenizer(TEXTS["Paris"], return_tensors="pt")["input_ids"][:, :LENGTH]
    told = editor.lm(tokens).logits.double().log_softmax(-1)[0, :-1]
    log_prob = told.gather(1, tokens[0, 1:, None]).sum()
    return {
        "ngram_entropy": fmean(ngram_entropy(nltk_words(text)) for text in texts),
        "reference_score": tfidf_cosine(weights, " ".join(texts), " ".join(TEXTS.values())),
        "essence_perplexity": float((-log_prob / tokens.shape[1]).exp()),
    }


def test_measures_are_those_of_each_text_alone(lm, references, run, tmp_path):
    alone = fit(
        lm,
        tmp_path,
        [EditJournal(), FluencyMetrics(1, references, length=LENGTH)],
        ASKED[:1],
        limit_val_batches=0,
    )
    with torch.no_grad():
        expected = slow(alone.editor, references)
    assert {name: alone.edits[0][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert {name: run.edits[0][name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_a_request_without_generation_prompts_has_no_measure(run):
    told = ["ngram_entropy" in edit for edit in run.edits]
    assert told == [True, False, False]


def test_the_same_prompt_is_continued_in_two_ways(run):
    first, second, _ = FluencyMetrics(length=LENGTH).written(run.editor, PARIS)
    assert first != second
    assert first.startswith("Paris is")


def test_without_references_only_entropy_is_measured(lm, tmp_path):
    metrics = FluencyMetrics(2, length=LENGTH)
    asked = [ASKED[1], PARIS, PARIS._replace(case_id=99)]
    edits = fit(lm, tmp_path, [EditJournal(), metrics], asked, limit_val_batches=0).edits
    assert [{"ngram_entropy", "reference_score"} & edit.keys() for edit in edits] == [
        set(),
        {"ngram_entropy"},
        set(),
    ]


def test_test_measures_the_model_as_it_is(lm, references, tmp_path):
    trainer = trainer_in(tmp_path, [FluencyMetrics(1, references, length=LENGTH)])
    editor = ROME(lm=lm, **METHOD)
    (found,) = trainer.test(editor, data_of(ASKED), verbose=False)
    with torch.no_grad():
        expected = slow(editor, references)
    expected = {f"retention/{name}": value for name, value in expected.items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_texts_are_normalised_as_published():
    text = "Caf\u00e9 \ufb01n\n\nnew\nline"
    assert as_published(text) == unicodedata.normalize("NFKD", "Café fin new\nline")


def test_requests_without_generation_prompts_are_refused_before_any_edit(lm, tmp_path):
    with pytest.raises(ValueError, match="continues generation_prompts, and no request has any"):
        fit(lm, tmp_path, [EditJournal(), FluencyMetrics()], REQUESTS, limit_val_batches=0)
    assert (tmp_path / "edits.jsonl").read_text() == ""


def test_texts_longer_than_the_model_reads_are_refused(lm, tmp_path):
    with pytest.raises(ValueError, match="window of 128 tokens, got 128"):
        fit(lm, tmp_path, [FluencyMetrics(length=129)], ASKED, limit_val_batches=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_edits": 0}, "every_n_edits must be positive, got 0"),
        ({"length": 1}, "length must be greater than 1, got 1"),
        ({"top_k": -1}, "top_k must be positive, got -1"),
        ({"corpus": "x.txt"}, "corpus 'x.txt' weighs the words of references; name these too"),
    ],
)
def test_strange_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FluencyMetrics(**options)
