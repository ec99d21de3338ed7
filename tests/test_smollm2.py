"""Edits of a real language model, SmolLM2, of facts that it knows."""

import json
from pathlib import Path

import pytest
import torch

from callbacks.watching.measures import perplexities
from data_modules.embedded import embedded_sentences
from data_modules.records import EditRequest, WatchedText
from lightning_modules.language_model.generation import generate
from lightning_modules.language_model.loading import load
from lightning_modules.methods.rome import ROME, ConsistentROME

FACTS = json.loads((Path(__file__).parents[1] / "docs" / "ten_facts.json").read_text())
FEW = {5: 2}  # contexts; each costs time
FIRST_TOKEN = EditRequest(99, "{} is a country within the continent of", "France", "Asia")


@pytest.fixture(scope="module")
def model(smollm2):
    return load(smollm2)


@pytest.fixture
def edited(model):
    """Makes an editor of the model; gives the model back as it was."""
    editors = []

    def of(policy, layer):
        editor = policy(layer=layer, second_moment="identity", contexts=FEW)
        editor.attach(*model)
        editor.prepare()
        editors.append(editor)
        return editor

    yield of
    for editor in editors:
        editor.restore()


def request(number):
    fact = FACTS[number]
    prompt = fact["prompt"].replace(fact["subject"], "{}")
    return EditRequest(number, prompt, fact["subject"], fact["target_new"], fact["ground_truth"])


def said(model, *prompts):
    return [text.strip() for text in generate(*model, prompts, ["\n"], 5)]


def perplexity(editor):
    texts = embedded_sentences()[:10]
    scores = editor.watch(WatchedText(list(range(10)), texts))
    return perplexities(scores.nll, scores.length).mean


def test_the_model_states_the_ten_facts_before_any_edit(model):
    texts = said(model, *(fact["prompt"] for fact in FACTS))
    for text, fact in zip(texts, FACTS, strict=True):
        assert text.startswith(fact["ground_truth"])


def test_its_config_says_what_its_weights_were_dequantised_from(model):
    lm, _ = model
    assert lm.config.dequantised_from == (
        "SmolLM2-135M-Instruct.Q4_1.gguf (weights: 210 Q4_1, 61 F32, 1 Q8_0)"
    )


def test_two_facts_edited_by_c_rome_are_stated_and_most_others_as_before(model, edited):
    editor = edited(ConsistentROME, layer=6)
    before = perplexity(editor)
    for number in (1, 6):
        editor.make_edit([request(number)])
    texts = said(model, *(fact["prompt"] for fact in FACTS))
    assert texts[1].startswith("Boston")
    assert texts[6].startswith("Rome")
    others = [number for number in range(len(FACTS)) if number not in (1, 6)]
    kept = [texts[number].startswith(FACTS[number]["ground_truth"]) for number in others]
    assert sum(kept) >= 6, texts
    assert perplexity(editor) == pytest.approx(before, rel=0.1)


def test_rome_at_the_first_token_destroys_the_model_and_c_rome_does_not(edited):
    harmful = edited(ROME, layer=12)
    before = perplexity(harmful)
    harmful.make_edit([FIRST_TOKEN])
    assert perplexity(harmful) > 10 * before
    harmful.restore()
    consistent = edited(ConsistentROME, layer=12)
    consistent.make_edit([FIRST_TOKEN])
    assert perplexity(consistent) < 1.1 * before


def test_an_edit_is_taken_back_bit_by_bit(model, edited):
    editor = edited(ConsistentROME, layer=6)
    weight = model[0].get_parameter(*editor.edited_weights())
    original = weight.clone()
    editor.make_edit([request(0)])
    assert not torch.equal(weight, original)
    editor.undo()
    assert torch.equal(weight, original)
