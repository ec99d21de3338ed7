import torch

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.total_change import joined_factors, low_rank
from callbacks.watching.restore import RestoreWeights
from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.ledger import read_ledger
from tests.callbacks.runs import REQUESTS, WEIGHT, fit


def test_factors_are_never_of_higher_rank_than_the_weight():
    updates = [Update("w", torch.randn(3, 2), torch.randn(2, 5)) for _ in range(4)]
    left, right = joined_factors(updates)
    assert (left.shape, right.shape) == ((3, 3), (3, 5))
    torch.testing.assert_close(left @ right, sum(update.dense() for update in updates))


def test_the_change_of_a_sweep_is_of_the_edit_that_the_device_holds(lm, tmp_path):
    run = fit(lm, tmp_path, [RestoreWeights(), EditLedger()], REQUESTS[:3], limit_val_batches=0)
    second = read_ledger(tmp_path)[1]
    run.editor.edited_requests = second.identities  # as on the first of two devices
    (update,) = second.updates()
    left, right = low_rank(tmp_path, run.editor)[WEIGHT]
    torch.testing.assert_close(left @ right, update.dense().float())
    run.editor.edited_requests = ["7-unknown"]
    assert low_rank(tmp_path, run.editor) == {}
