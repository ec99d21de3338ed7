import lightning as L
import pytest
import torch

from callbacks.keeping.checkpoint_files import WholeFiles

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
