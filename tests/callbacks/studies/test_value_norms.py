import json

import pytest
import torch

from callbacks.studies.value_norms import ValueNorms
from lightning_modules.editing.norm_anchors import anchor_file
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, tiny_lm, trainer_in


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


def test_the_file_holds_the_mean_norm_of_solved_values_and_serves_nas(lm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    editor = ROME(lm=lm, **METHOD)
    trainer_in(tmp_path, [ValueNorms(trimmed=0.0)]).predict(editor, data_of())
    norms = [(where.output + found.change).norm() for where, found in editor.seek(REQUESTS)]
    file = anchor_file(lm, editor.fingerprint)
    content = json.loads(file.read_text())
    assert content["norm"] == pytest.approx(float(torch.stack(norms).mean()), rel=1e-4)
    assert (content["requests"], content["layer"]) == (len(REQUESTS), editor.value_layer)
    stored = METHOD | {"value": ValueSearchOptions(steps=2, anchor="stored")}
    anchored = ROME(lm=lm, **stored)
    anchored.configure_model()
    anchored.prepare()
    assert anchored.search.anchor == content["norm"]
