import json
import math
from itertools import pairwise

import pytest

from callbacks.keeping.journal import EditJournal
from callbacks.keeping.means import mean_scores
from callbacks.watching.edit_metrics import EditMetrics
from callbacks.watching.generation_metrics import (
    GenerationMetrics,
    answer_in,
    generation_entropy,
    matches,
    reading,
)
from lightning_modules.language_model.generation import generate
from lightning_modules.language_model.verdicts import Reply, verdicts
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, trainer_in
from tests.tiny import save_tiny, tiny_chat_tokenizer

AMONG_OTHER_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
LENGTH = 12
NAMES = {
    f"{group}_generation{kind}"
    for group in ("efficacy", "paraphrase")
    for kind in ("", "_exact", "_squad_exact_match")
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
    assert matches(text, "Peru") == {
        "generation": begins,
        "generation_exact": equals,
        "generation_squad_exact_match": float(equals or text == " the Peru"),
    }


def test_a_stop_within_the_target_ends_nothing():
    names = ("generation", "generation_exact", "generation_squad_exact_match")
    assert matches(" St. Louis. It", "St. Louis") == dict.fromkeys(names, 1)
    assert matches(" St. Paul", "St. Louis") == dict.fromkeys(names, 0)


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
        "efficacy_generation_squad_exact_match": 1.0,
        "paraphrase_generation": 0.5,
        "paraphrase_generation_exact": 0.0,
        "paraphrase_generation_squad_exact_match": 0.0,
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


def test_stops_are_those_that_are_named():
    assert matches("Peru; or", "Peru", "free", [";"])["free_exact"] == 1
    assert matches("Peru. Or", "Peru", "free", [";"])["free_exact"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stops": [".", ""]}, "each of stops must be a text that is not empty"),
        ({"contexts": ["essay"]}, "contexts must be among .*, got 'essay'"),
    ],
)
def test_strange_stops_and_contexts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationMetrics(**options)


def test_chat_context_without_a_template_is_refused_before_any_edit(lm, tmp_path):
    with pytest.raises(ValueError, match="has no chat template"):
        fit(lm, tmp_path, [GenerationMetrics(contexts=["chat"])], limit_val_batches=0)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """A model with a chat template and a long window, and a run that reads it in all contexts."""
    folder = tmp_path_factory.mktemp("chat")
    save_tiny(folder, "llama")
    tiny_chat_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    metrics = GenerationMetrics(
        1, LENGTH, contexts=["question", "instruction", "chat"], judge=str(folder)
    )
    out = tmp_path_factory.mktemp("run")
    return fit(str(folder), out, [EditJournal(), metrics], REQUESTS[:2], limit_val_batches=0)


def test_each_context_has_its_measures_and_its_texts(chatting):
    editor, request, record = chatting.editor, REQUESTS[1], chatting.edits[1]
    frames = {
        "generation": "{}",
        "generation_question": "{}",
        "generation_instruction": "Answer the question in a few words.\nQuestion: {}\nAnswer:",
        "generation_chat": "<user>\n{}<|endoftext|>\n<assistant>\n",
    }
    for name, frame in frames.items():
        texts = [
            generate(editor.lm, editor.tokenizer, [frame.replace("{}", prompt)], (), LENGTH)[0]
            for prompt in (request.text, *request.paraphrases)
        ]
        expected = reading(request.target_new, texts, name)
        assert expected == {measure: record[measure] for measure in expected}
        replies = [
            Reply(prompt, request.target_new, answer_in(text, request.target_new))
            for prompt, text in zip((request.text, *request.paraphrases), texts, strict=True)
        ]
        verdict = verdicts(editor.lm.from_pretrained(editor.lm_name), editor.tokenizer, replies)
        assert [record[f"{g}_{name}_judge"] for g in ("efficacy", "paraphrase")] == verdict
