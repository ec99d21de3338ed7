import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.keeping.card import ModelCard, first_token_doubt
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, trainer_in, watching


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


def test_subjects_at_the_first_token_are_warned_of_once_before_the_run(lm, tmp_path, said):
    short = [REQUESTS[0]._replace(case_id=n, subject="P", prompt="{} lies in") for n in (1, 2)]
    run = fit(lm, tmp_path, [*watching(), ModelCard()], [*short, REQUESTS[3]])
    assert len(said) == 1
    assert said[0].startswith(
        "Warning: 2 of 3 requests begin with a subject of one token, such as 'P' in 'P lies in';"
    )
    assert [edit["subject_position"] == 0 for edit in run.edits] == [True, True, False]
    assert first_token_doubt(run.editor, [REQUESTS[3]]) == ""
    run.editor.needs_subject = False
    assert first_token_doubt(run.editor, short) == ""
