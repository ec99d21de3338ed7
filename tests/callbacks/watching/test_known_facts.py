import torch

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.watching.edit_metrics import EditMetrics
from callbacks.watching.known_facts import STATED, KnownFacts
from lightning_modules.editing.ledger import read_ledger
from tests.callbacks.runs import REQUESTS, fit, watching


class Knows(EditMetrics):
    """Finds that the model states one fact before its edit."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        pl_module.record[STATED] = float(batch[0] == REQUESTS[1])


def run_of(lm, folder, skipping, requests=REQUESTS):
    journal, _, *others = watching(threshold=1e9)
    return fit(lm, folder, [journal, Knows(), skipping, *others, EditLedger()], requests)


def test_a_stated_fact_is_left_out_and_the_others_are_edited_as_without_it(lm, tmp_path):
    run = run_of(lm, tmp_path / "a", KnownFacts())
    assert run.column("status") == ["applied", "skipped", "applied", "applied"]
    assert run.edits[1]["reason"] == (
        "the model already completes 'The mother tongue of Victor Hugo is' with 'German'"
    )
    assert run.edits[1]["perplexity"] == run.edits[0]["perplexity"]
    assert [entry.edit for entry in read_ledger(run.folder)] == [1, 3, 4]
    without = run_of(lm, tmp_path / "b", KnownFacts(), [*REQUESTS[:1], *REQUESTS[2:]])
    assert torch.equal(run.weight, without.weight)
    assert run.editor.edited_cases == [10, 12, 13]


def test_it_is_edited_if_asked_by_the_last_of_several(lm, tmp_path):
    first, _, *others = watching(threshold=1e9)
    callbacks = [first, Knows(), KnownFacts(), *others, KnownFacts(edit=True)]
    run = fit(lm, tmp_path / "several", callbacks)
    assert run.column("status") == ["applied"] * 4
    assert run_of(lm, tmp_path, KnownFacts(edit=True)).column("status") == ["applied"] * 4
