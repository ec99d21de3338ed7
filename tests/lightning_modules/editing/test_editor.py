import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_modules.records import EditRequest
from lightning_modules.functional.value_search import value_search
from lightning_modules.language_model import values
from lightning_modules.methods.rome import ROME, RankOneEditor, RankOneKeys
from tests.tiny import tiny_editor, tiny_model

REQUEST = EditRequest(7, "{} plays the", "He", "violin")
OTHER = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin")


class Journal(L.Callback):
    """The record of each edit and the weight after it."""

    def __init__(self) -> None:
        self.records: list[dict] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.records.append(module.record)
        module.record = {}
        self.weights.append(module.lm.get_parameter(module.edited_weights()[0]).clone())


def fit(editor: RankOneEditor, batch_size: int = 1) -> Journal:
    """Two requests in a real Trainer, as two edits or as one."""
    journal = Journal()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[journal],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    requests = DataLoader([REQUEST, OTHER], batch_size, collate_fn=list)
    trainer.fit(editor, requests, requests)
    assert trainer.global_step == len(journal.records) == 2 // batch_size
    return journal


def poison_search(
    editor: RankOneEditor, monkeypatch: pytest.MonkeyPatch, first: bool = True
) -> None:
    """Makes the first or the second value search meet a loss that is not a number."""
    factors = iter([float("nan"), 1.0] if first else [1.0, float("nan")])

    def search(answers, found, options):
        factor = next(factors)

        def poisoned(change, numbers):
            heard = answers(change, numbers)
            return heard._replace(nll=factor * heard.nll)

        return value_search(poisoned, found, options)

    monkeypatch.setattr(values, "value_search", search)


def poison_update(editor: RankOneEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the first update divide zero by zero."""
    factors, choose = iter([0.0, 1.0]), editor.choose_keys

    def choose_keys(keys, values):
        factor, chosen = next(factors), choose(keys, values)
        return RankOneKeys(factor * chosen.direction, chosen.key, chosen.value)

    monkeypatch.setattr(editor, "choose_keys", choose_keys)


@pytest.mark.parametrize(
    ("poison", "reason"),
    [(poison_search, "loss is nan at step 1"), (poison_update, "c_proj.weight is not finite")],
)
def test_failed_edit_leaves_the_model_and_the_run_goes_on(monkeypatch, poison, reason):
    editor = tiny_editor(ROME, tiny_model("gpt2"))
    poison(editor, monkeypatch)
    journal = fit(editor)
    first, second = journal.records
    assert (first["status"], second["status"]) == ("failed", "applied")
    assert reason in first["reason"]
    (original,) = editor.original.values()
    assert torch.equal(journal.weights[0], original)
    assert first["update_norm"] == 0
    assert second["update_norm"] == pytest.approx(float((journal.weights[1] - original).norm()))
    assert second["update_norm"] > 0
    assert editor.edited_cases == [OTHER.case_id]


def test_failure_takes_back_what_the_same_edit_had_applied(monkeypatch):
    editor = tiny_editor(ROME, tiny_model("gpt2"))
    poison_search(editor, monkeypatch, first=False)
    journal = fit(editor, batch_size=2)
    assert journal.records[0]["status"] == "failed"
    assert journal.records[0]["update_norm"] == 0
    assert torch.equal(journal.weights[0], *editor.original.values())
    assert editor.edited_cases == []


def test_edits_accumulate_until_the_weights_are_restored():
    editor = tiny_editor(ROME, tiny_model("gpt2"))
    journal = fit(editor)
    (original,) = editor.original.values()
    name = editor.edited_weights()[0]
    assert [record["status"] for record in journal.records] == ["applied", "applied"]
    assert not torch.equal(journal.weights[0], original)
    assert not torch.equal(journal.weights[1], journal.weights[0])
    editor.restore()
    assert torch.equal(editor.lm.get_parameter(name), original)
    assert editor.edited_cases == []
