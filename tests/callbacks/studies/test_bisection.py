import json

import pytest
import torch

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.studies.bisection import Bisection
from lightning_modules.editing.edited_weights import Update
from lightning_modules.jobs.replay import Replay
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, data_of, fit, trainer_in, watching

NORM = "transformer.ln_f.weight"


class Wrecks(ROME):
    """ROME whose edit of case 12 destroys the model."""

    def edited_weights(self):
        return [*super().edited_weights(), NORM]

    def edit(self, requests):
        yield from super().edit(requests)
        if requests[0].case_id == 12:
            yield Update(NORM, torch.full((32,), 50.0))


@pytest.fixture(scope="module")
def wrecked(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrecked")
    return fit(lm, folder, [*watching(threshold=1e300), EditLedger()], method=Wrecks)


def search(lm, wrecked, folder, threshold=1000.0, **options):
    editor = Replay(str(wrecked.folder), lm=lm, **options)
    trainer = trainer_in(folder, [*watching(), Bisection(threshold)])
    trainer.validate(editor, datamodule=data_of(), verbose=False)
    return editor


def test_the_edit_that_destroyed_the_model_is_found(lm, wrecked, tmp_path):
    editor = search(lm, wrecked, tmp_path)
    found = json.loads((tmp_path / "bisection.json").read_text())
    perplexity = wrecked.column("perplexity")
    assert (found["edit"], found["case_id"]) == (3, [12])
    assert found["before"] == pytest.approx(perplexity[1], rel=1e-9)
    assert found["after"] == pytest.approx(perplexity[2], rel=1e-9)
    assert editor.edited_cases == [10, 11, 12, 13]


def test_a_model_that_did_not_collapse_is_said_to_be_healthy(lm, wrecked, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("callbacks.studies.bisection.rank_zero_info", said.append)
    search(lm, wrecked, tmp_path, without=[3])
    assert said[0].startswith("no collapse: perplexity ")
    assert said[0].endswith("after 3 edits")
    assert not (tmp_path / "bisection.json").exists()


def test_a_threshold_below_the_unedited_model_is_refused(lm, wrecked, tmp_path):
    with pytest.raises(ValueError, match=r"unedited model's perplexity .* is above the threshold"):
        search(lm, wrecked, tmp_path, threshold=2.0)


def test_a_model_that_is_not_replayed_cannot_be_searched(lm, tmp_path):
    with pytest.raises(ValueError, match=r"Bisection needs a ledger: use it with replay.yaml"):
        trainer_in(tmp_path, [Bisection()]).validate(ROME(lm=lm, **METHOD), data_of())
