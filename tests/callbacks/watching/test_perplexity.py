import math
from types import SimpleNamespace

import pytest
import torch

from callbacks.watching import perplexity
from callbacks.watching.collapse import CollapseStopping
from callbacks.watching.perplexity import CorpusPerplexity, Perplexity
from data_modules.records import WatchedText
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, Poison, fit, naive_perplexities, trainer_in, watching
from tests.tiny import tiny_tokenizer


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


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_validate_prints_one_table_with_the_unedited_model_and_a_sentence(
    sequential, monkeypatch, capsys
):
    said = []
    monkeypatch.setattr(perplexity, "rank_zero_info", said.append)
    trainer = trainer_in(sequential.folder, [Perplexity(), CollapseStopping(threshold=1000.0)])
    for checkpoint in (sequential.checkpoint(2), None):
        editor = ROME(lm=sequential.editor.lm_name, **METHOD)
        trainer.validate(editor, sequential.data, ckpt_path=checkpoint)
    assert "perplexity" not in capsys.readouterr().out
    before, after = sequential.editor.baseline["perplexity"], sequential.edits[1]["perplexity"]
    row = f"{'perplexity, mean of the watched texts':<38}{before:>10.4g}"
    assert f"{row}{after:>10.4g}" in said[0].splitlines()
    assert said[1].endswith(
        f"{after:.4g}, the unedited one's {before:.4g}: no collapse, below 1000"
    )
    assert row in said[2].splitlines()
    assert said[3] == f"Nothing is edited: the unedited model's perplexity is {before:.4g}"


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


class Stub:
    """An editor of whose texts nothing is finite."""

    baseline: dict = {}  # noqa: RUF012

    def watch_behind_bos(self, batch):
        return None


def test_a_baseline_that_is_not_finite_is_refused():
    callback, scores = (
        Perplexity(),
        SimpleNamespace(nll=torch.tensor([math.nan]), length=torch.ones(1)),
    )
    trainer = SimpleNamespace(sanity_checking=True)
    callback.on_validation_batch_end(trainer, Stub(), scores, None)
    with pytest.raises(ValueError, match="the unedited model's perplexity is nan"):
        callback.on_validation_epoch_end(trainer, Stub())


def test_perplexity_behind_bos_predicts_every_token_of_a_text(tiny_llama):
    editor = ROME(lm="tiny", layer=1, second_moment="identity")
    editor.attach(tiny_llama, tiny_tokenizer(bos=True))
    scores = editor.watch_behind_bos(WatchedText([0], ["The river is long."]))
    tokens = editor.tokenizer("The river is long.", return_tensors="pt")["input_ids"]
    loss = tiny_llama(tokens, labels=tokens).loss
    assert scores.nll.item() == pytest.approx(loss.item(), rel=1e-5)
    editor.tokenizer = tiny_tokenizer()
    assert editor.watch_behind_bos(WatchedText([0], ["The river is long."])) is None
    long = WatchedText([0], ["river " * 200])
    assert int(editor.watch(long).length) == len(editor.tokenizer(long.texts[0])["input_ids"]) - 1
