import pytest
import torch

from callbacks.keeping.checkpoint import EditCheckpoint
from tests.callbacks.runs import WEIGHT, fit, watching


@pytest.mark.parametrize("interval", [1, 3])
def test_the_last_checkpoint_is_that_behind_the_last_edit(lm, tmp_path, interval):
    run = fit(
        lm,
        tmp_path,
        [*watching(), EditCheckpoint()],
        enable_checkpointing=True,
        val_check_interval=interval,
    )
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 4
    assert torch.equal(saved["state_dict"][f"lm.{WEIGHT}"], run.weight)


def test_a_checkpoint_holds_what_edits_change_and_no_more(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), EditCheckpoint()], enable_checkpointing=True)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt")
    assert saved["state_dict"].keys() == {f"lm.{WEIGHT}"}
    size = (tmp_path / "checkpoints" / "last.ckpt").stat().st_size
    assert size < 4 * run.weight.numel() + 20_000
