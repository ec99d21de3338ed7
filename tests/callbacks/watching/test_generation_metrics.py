import math
from itertools import pairwise

import pytest

from callbacks.keeping.journal import EditJournal
from callbacks.keeping.means import mean_scores
from callbacks.watching.edit_metrics import EditMetrics
from callbacks.watching.generation_metrics import (
    GenerationMetrics,
    generation_entropy,
    matches,
    reading,
)
from lightning_modules.language_model.generation import generate
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, trainer_in

AMONG_OTHER_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
LENGTH = 12
NAMES = {
    f"{group}_generation{kind}" for group in ("efficacy", "paraphrase") for kind in ("", "_exact")
}


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    callbacks = [EditJournal(), GenerationMetrics(2, LENGTH)]
    return fit(lm, tmp_path_factory.mktemp("run"), callbacks, limit_val_batches=0)


def slow(editor, request):
    """The measures of a request, prompt by prompt."""
    texts = [
        generate(editor.lm, editor.tokenizer, [prompt], (), LENGTH)[0]
        for prompt in (request.text, *request.paraphrases)
    ]
    return reading(request.target_new, texts)


@pytest.mark.parametrize(
    ("text", "begins", "equals"),
    [
        (" Peru. It is", 1, 1),
        (" Peru", 1, 1),
        (" peru\nand", 1, 1),
        (" Peru, a country", 1, 0),
        (" Peruvian", 0, 0),
        (" the Peru", 0, 0),
        (" It is. Peru", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_text_is_read_up_to_its_stop_word_by_word(text, begins, equals):
    assert matches(text, "Peru") == {"generation": begins, "generation_exact": equals}


def test_a_stop_within_the_target_ends_nothing():
    assert matches(" St. Louis. It", "St. Louis") == {"generation": 1, "generation_exact": 1}
    assert matches(" St. Paul", "St. Louis") == {"generation": 0, "generation_exact": 0}


def naive_entropy(items):
    shares = [items.count(item) / len(items) for item in set(items)]
    return -sum(share * math.log2(share) for share in shares)


def test_entropy_is_that_of_bigrams_and_twice_that_of_trigrams():
    words = ["a", "b", "a", "b", "a", "c", ",", "b", "a", "b"]
    pairs = list(pairwise(words))
    triples = list(zip(words, words[1:], words[2:], strict=False))
    expected = (naive_entropy(pairs) + 2 * naive_entropy(triples)) / 3
    assert generation_entropy("a b a b a c, b a b") == pytest.approx(expected)


def test_a_text_that_repeats_itself_has_less_entropy_and_a_short_one_none():
    assert generation_entropy("the the the the the") == 0
    assert generation_entropy("a river runs through the") == pytest.approx(
        (2 + 2 * math.log2(3)) / 3
    )
    assert generation_entropy("Peru.") is None


def test_a_request_is_read_by_the_means_of_its_texts():
    found = reading("Peru", ["Peru", "Peru and", "no"])
    assert found == {
        "efficacy_generation": 1.0,
        "efficacy_generation_exact": 1.0,
        "paraphrase_generation": 0.5,
        "paraphrase_generation_exact": 0.0,
    }


def test_every_so_manieth_edit_is_read(run):
    assert [NAMES & edit.keys() == set() for edit in run.edits] == [True, False, True, False]
    last = run.edits[3]
    expected = slow(run.editor, REQUESTS[3])
    assert expected == {name: last[name] for name in expected}


def test_a_request_without_paraphrases_has_no_score_of_them(run):
    assert "paraphrase_generation" in run.edits[1]
    assert not [name for name in run.edits[3] if name.startswith("paraphrase")]


@AMONG_OTHER_CALLBACKS
def test_test_reads_the_edits_of_the_checkpoint(lm, sequential):
    trainer = trainer_in(sequential.folder, [EditMetrics(), GenerationMetrics(1, LENGTH)])
    editor = ROME(lm=lm, **METHOD)
    checkpoint = sequential.checkpoint(2)
    (found,) = trainer.test(editor, data_of(), ckpt_path=checkpoint, verbose=False)
    expected = mean_scores([slow(editor, request) for request in REQUESTS[:2]])
    assert expected.keys() >= NAMES
    assert expected == pytest.approx({name: found[f"retention/{name}"] for name in expected})


def test_more_text_than_the_model_can_write_is_refused_before_any_edit(lm, tmp_path):
    with pytest.raises(ValueError, match="window of 128 tokens, got 128"):
        fit(lm, tmp_path, [EditJournal(), GenerationMetrics(1, 128)], limit_val_batches=0)
    assert (tmp_path / "edits.jsonl").read_text() == ""


@pytest.mark.parametrize("options", [{"every_n_edits": 0}, {"max_new_tokens": -1}])
def test_what_is_not_positive_is_refused(options):
    ((name, number),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be positive, got {number}"):
        GenerationMetrics(**options)
