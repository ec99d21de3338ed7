import lightning as L
import pytest
import torch

from callbacks.keeping.checkpoint_files import WholeFiles
from callbacks.keeping.seals import Digested, digest_of, fault, follows, intact, line_of

VERSION = {"pytorch-lightning_version": L.__version__}


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


def sealed(file, content, before=None):
    with file.open("wb") as written:
        digested = Digested(written)
        digested.write(content)
        return digested.seal(before)


def test_a_line_leads_back_to_the_whole_file(tmp_path):
    files = [tmp_path / name for name in ("before-1.ckpt", "previous.ckpt", "last.ckpt")]
    whole = sealed(files[0], b"whole")
    sealed(files[2], b"more", sealed(files[1], b"part", whole))
    assert digest_of(files[0]) == follows(files[1]) == whole
    assert follows(files[0]) is None
    assert line_of(files[2]) == files[::-1]
    assert fault(files[2]) is None
    files[0].write_bytes(b"w" + files[0].read_bytes())
    assert "builds on before-1.ckpt, which is damaged" in fault(files[2])
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match="builds on a checkpoint that is not beside it"):
        line_of(files[2])
    assert fault(files[2]) == "builds on a checkpoint that is damaged or missing"
