import json
import re

import pytest

from lightning_modules.editing.norm_anchors import anchor_content, anchor_file, load_anchor
from lightning_modules.functional.value_search import ValueSearchOptions

STORED = ValueSearchOptions(anchor="stored")
CARD = {"lm": "m", "fingerprint": "ab", "method": "MEMIT", "value": {}, "seed": 0, "layers": [0, 1]}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """The file of a model's anchor, of layer 1."""
    monkeypatch.chdir(tmp_path)
    file = anchor_file("m", "ab")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(anchor_content(CARD, 7.5, 100)))
    return file


def test_the_stored_norm_is_that_of_the_model_and_layer(stored):
    assert load_anchor(STORED, "m", "ab", 1) == 7.5


@pytest.mark.parametrize("anchor", [None, 3.0])
def test_a_given_norm_needs_no_file(anchor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_anchor(ValueSearchOptions(anchor=anchor), "m", "ab", 1) == anchor


def test_a_missing_file_is_answered_with_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "predict --config nas-anchor.yaml --model.lm m --model.layers [1],"
    with pytest.raises(FileNotFoundError, match=re.escape(command)):
        load_anchor(STORED, "m", "ab", 1)


def test_the_anchor_of_another_layer_is_refused(stored):
    with pytest.raises(ValueError, match=r"anchor of layer 1 .*searched at layer 2"):
        load_anchor(STORED, "m", "ab", 2)


@pytest.mark.parametrize("text", ["", "{}", '{"fingerprint": "ab", "layer": 1, "norm": null}'])
def test_a_damaged_file_is_refused(stored, text):
    stored.write_text(text)
    with pytest.raises(ValueError, match="is no norm anchor"):
        load_anchor(STORED, "m", "ab", 1)
