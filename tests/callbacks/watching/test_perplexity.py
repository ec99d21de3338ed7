import math

import pytest
import torch

from callbacks.watching.perplexity import CorpusPerplexity, Perplexity
from tests.callbacks.runs import Poison, fit, naive_perplexities, trainer_in, watching


def mean(values):
    return sum(values) / len(values)


def test_baseline_is_the_perplexity_of_the_unedited_model(lm, sequential):
    found = naive_perplexities(lm)
    assert sequential.editor.baseline["perplexity"] == pytest.approx(mean(found), rel=1e-5)
    log = math.log(mean(found))
    assert sequential.editor.baseline["log_perplexity"] == pytest.approx(log, rel=1e-5)


def test_perplexity_after_the_last_edit_is_that_of_the_edited_model(lm, sequential):
    found = mean(naive_perplexities(lm, sequential.weight))
    assert sequential.edits[-1]["perplexity"] == pytest.approx(found, rel=1e-5)
    assert found != pytest.approx(sequential.editor.baseline["perplexity"], rel=1e-3)


def test_every_edit_is_measured_anew(lm, sequential):
    for number in (1, 2, 3, 4):
        found = mean(naive_perplexities(lm, sequential.saved_weight(number)))
        assert sequential.edits[number - 1]["perplexity"] == pytest.approx(found, rel=1e-5)


def test_validate_reports_the_perplexity_of_the_model_as_it_is(sequential, tmp_path):
    trainer = trainer_in(tmp_path, [Perplexity()])
    (found,) = trainer.validate(sequential.editor, datamodule=sequential.data, verbose=False)
    last = sequential.edits[-1]
    assert found == pytest.approx({name: last[name] for name in found}, rel=1e-5)
    assert set(found) == {"perplexity", "log_perplexity", "perplexity_pooled"}


def test_an_overflowing_perplexity_has_a_finite_logarithm(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), Poison({1}, 1e4)])
    (edit,) = run.edits
    assert edit["perplexity"] == math.inf
    assert 709 < edit["log_perplexity"] < math.inf


def test_metric_does_not_care_how_texts_are_batched():
    nll, length = torch.rand(7).double() * 5, torch.arange(1, 8)
    whole, parts = CorpusPerplexity(), CorpusPerplexity()
    whole.update(nll, length)
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        parts.update(nll[start:stop], length[start:stop])
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-12)
