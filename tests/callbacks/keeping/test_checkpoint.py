import lightning as L
import pytest
import torch

from callbacks.keeping.checkpoint import EditCheckpoint, WholeFiles, intact
from tests.callbacks.runs import WEIGHT, fit, watching

VERSION = {"pytorch-lightning_version": L.__version__}


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("owned", "w"))


class Full:
    """Stands for a file that cannot be written to its end."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


def test_a_checkpoint_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"edit": 1}, file)
    with pytest.raises(OSError, match="No space left"):
        WholeFiles().save_checkpoint({"edit": Full()}, file)
    assert torch.load(file) == {"edit": 1}
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]


@pytest.fixture
def last(tmp_path):
    """The last of two checkpoints, beside which the one before lies."""
    for edit in (1, 2):
        WholeFiles().save_checkpoint({**VERSION, "edit": edit}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_any_flipped_bit_of_a_checkpoint_is_noticed(last):
    data = last.read_bytes()
    for place in range(0, len(data), 7):
        last.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert not intact(last)
    last.write_bytes(data)
    assert intact(last)


def test_a_last_checkpoint_of_lightnings_own_is_intact_until_a_tensor_changes(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({**VERSION, "weight": torch.full((300,), 7.5)}, file)
    assert WholeFiles().load_checkpoint(file)["weight"].sum() == 2250
    data = file.read_bytes()
    place = data.index(torch.full((300,), 7.5).numpy().tobytes()) + 100
    file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    assert not intact(file)
    file.write_bytes(data[:-1])
    assert not intact(file)


@pytest.mark.parametrize("left", [0, 20, 500])
def test_a_truncated_checkpoint_falls_back_to_the_one_before_and_says_so(last, left):
    last.write_bytes(last.read_bytes()[:left])
    with pytest.warns(UserWarning, match=r"last.ckpt is damaged .* continues from .*previous.ckpt"):
        assert WholeFiles().load_checkpoint(last)["edit"] == 1
    (last.parent / "previous.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"last.ckpt is damaged .* no intact one is beside"):
        WholeFiles().load_checkpoint(last)


def test_a_checkpoint_that_could_run_code_is_refused(last):
    own = last.with_name("own.ckpt")
    torch.save({**VERSION, "edit": Evil()}, own)
    with pytest.raises(ValueError, match=r"own.ckpt is not read: .* could run code"):
        WholeFiles().load_checkpoint(own)
    assert not (last.parent / "owned").exists()


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
