import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.keeping.card import ModelCard
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, data_of, fit, trainer_in, watching


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the callback tells the terminal."""
    told: list[str] = []
    monkeypatch.setattr("callbacks.keeping.card.rank_zero_info", told.append)
    return told


def test_validation_begins_with_the_card(lm, tmp_path, said):
    logger = TensorBoardLogger(tmp_path, "", "", default_hp_metric=False)
    trainer = trainer_in(tmp_path, [*watching(), ModelCard()], logger=logger)
    trainer.validate(ROME(lm=lm, **METHOD), datamodule=data_of(), verbose=False)
    assert "transformer.h.0.mlp.c_proj.weight: 128 in, 32 out, stored as (128, 32)" in said[0]
    assert "Paris is the capital of → Peru" in said[0]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert "model card/text_summary" in events.Tags()["tensors"]


def test_an_edit_is_not_preceded_by_it(lm, tmp_path, said):
    fit(lm, tmp_path, [*watching(), ModelCard()])
    assert said == []
