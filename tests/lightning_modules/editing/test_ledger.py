import json
import resource
import signal
from pathlib import Path

import pytest
import torch

from data_modules.records import EditRequest, Probe
from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.ledger import (
    Entry,
    checksum,
    cut_behind,
    joined,
    read_ledger,
    shard_file,
    standing,
    write_entry,
)

REQUEST = EditRequest(
    10, "{} liegt in", "Łódź", "Peru", "", ("Wo liegt Łódź?",), (Probe("Rom ist", "da"),)
)
LOW_RANK = Update("h.1.weight", torch.randn(4, 2, dtype=torch.float64), torch.randn(2, 6).double())
DENSE = Update("h.2.weight", torch.randn(4, 6).T.to(torch.bfloat16))


def write(run: Path, edit: int, before: int | None = None, model: str = "a") -> Entry:
    """An edit of one request, made on top of those before it."""
    names = [LOW_RANK.weight, DENSE.weight]
    before = edit - 1 if before is None else before
    entry = Entry(
        edit, before, [edit + 100], [f"{edit + 100}-a"], model, names, shard_file(run, edit)
    )
    write_entry(entry, [REQUEST], [LOW_RANK, DENSE])
    return entry


@pytest.fixture
def run(tmp_path):
    """A ledger of three edits."""
    for edit in (1, 2, 3):
        write(tmp_path, edit)
    return tmp_path


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


def test_an_edit_is_read_as_it_was_written(run):
    entry = read_ledger(run)[1]
    assert entry == Entry(
        2, 1, [102], ["102-a"], "a", ["h.1.weight", "h.2.weight"], shard_file(run, 2)
    )
    low_rank, dense = entry.updates()
    assert low_rank.weight == LOW_RANK.weight
    assert torch.equal(low_rank.left, LOW_RANK.left)
    assert torch.equal(low_rank.right, LOW_RANK.right)
    assert torch.equal(dense.left, DENSE.left)
    assert dense.left.dtype == torch.bfloat16
    assert dense.right is None


def test_a_single_column_is_kept_whatever_its_stride():
    column = torch.arange(6.0, dtype=torch.float64).view(2, 3).T[:, :1]
    strided = torch.as_strided(column.clone(), (3, 1), (1, 3))
    assert strided.is_contiguous()
    assert checksum({"a": strided}, {}) == checksum({"a": column.clone()}, {})


def test_an_edit_that_changed_nothing_is_kept_too(tmp_path):
    write_entry(Entry(1, 0, [7], ["7-a"], "a", [], shard_file(tmp_path, 1)), [REQUEST], [])
    assert read_ledger(tmp_path)[0].updates() == []


def test_a_folder_without_a_ledger_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no ledger; give a run's folder"):
        read_ledger(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_last_edit_is_left_out_with_a_warning(run, share):
    cut(shard_file(run, 3), share)
    with pytest.warns(UserWarning, match=r"000003.safetensors is damaged"):
        assert [entry.edit for entry in read_ledger(run)] == [1, 2]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_edit_amid_others_is_refused(run, share):
    cut(shard_file(run, 2), share)
    with pytest.raises(ValueError, match=r"000002.safetensors is damaged .*give an intact copy"):
        read_ledger(run)


@pytest.mark.parametrize("place", [-1, -200])
def test_a_changed_byte_is_noticed(run, place):
    content = bytearray(shard_file(run, 2).read_bytes())
    content[place] ^= 1
    shard_file(run, 2).write_bytes(content)
    with pytest.raises(ValueError, match=r"000002.safetensors is damaged \(its checksum"):
        read_ledger(run)[1].updates()


def test_a_ledger_of_which_nothing_is_whole_is_refused(tmp_path):
    write(tmp_path, 1)
    cut(shard_file(tmp_path, 1), 0.5)
    with pytest.raises(ValueError, match=r"000001.safetensors is damaged"):
        read_ledger(tmp_path)


def test_edits_that_only_the_journal_tells_of_are_pointed_out(run):
    lines = [{"edit": 3, "status": "applied"}, {"edit": 4, "status": "failed"}]
    journal = run / "edits.jsonl"
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert len(read_ledger(run)) == 3
    with journal.open("a") as file:
        file.write(json.dumps({"edit": 5, "status": "applied"}) + "\n")
    with pytest.warns(UserWarning, match="ends at edit 3; 1 later ones were applied but cannot"):
        assert len(read_ledger(run)) == 3


def test_a_missing_edit_is_noticed(run):
    shard_file(run, 2).unlink()
    with pytest.raises(ValueError, match="edit 3 was made on a model with 2 edited requests, but"):
        joined([run])


def test_a_run_that_goes_on_with_another_keeps_its_numbers(run, tmp_path):
    for edit in (4, 5):
        write(tmp_path / "rest", edit)
    entries = joined([run, tmp_path / "rest"])
    assert [entry.edit for entry in entries] == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="give the run it continues first"):
        joined([tmp_path / "rest"])


def test_separate_runs_are_counted_on(run, tmp_path):
    for edit in (1, 4):
        write(tmp_path / "other", edit, before=0)
    assert [entry.edit for entry in joined([run, tmp_path / "other"])] == [1, 2, 3, 4, 7]


def test_ledgers_of_different_models_are_not_joined(run, tmp_path):
    write(tmp_path / "other", 1, model="b")
    with pytest.raises(ValueError, match="other holds edits of another model"):
        joined([run, tmp_path / "other"])


def test_a_model_holds_what_came_since_it_was_last_original(run, tmp_path):
    for edit in (1, 2):
        write(tmp_path / "sweep", edit, before=0)
    assert [entry.edit for entry in standing(read_ledger(run))] == [1, 2, 3]
    assert [entry.edit for entry in standing(read_ledger(tmp_path / "sweep"))] == [2]


def test_a_resumed_run_takes_the_ledger_back(run):
    cut_behind(run, 1)
    assert [entry.edit for entry in read_ledger(run)] == [1]


def test_a_full_disk_leaves_the_edits_before_whole(run):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError, match=r"edit 4 cannot be written .*--ckpt_path last"):
            write(run, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(read_ledger(run)) == 3
    assert {file.suffix for file in (run / "ledger").iterdir()} == {".safetensors"}


def test_the_same_edit_has_the_same_bytes_whatever_was_written_before(tmp_path):
    contents = set()
    for n in range(8):  # safetensors orders each header anew
        write(tmp_path / str(n), 1)
        contents.add(shard_file(tmp_path / str(n), 1).read_bytes())
    assert len(contents) == 1


def test_a_stray_file_is_named_and_left_aside(run):
    (run / "ledger" / "notes.safetensors").write_text("mine")
    with pytest.warns(UserWarning, match="holds notes.safetensors, which no run wrote"):
        assert [entry.edit for entry in read_ledger(run)] == [1, 2, 3]
    with pytest.warns(UserWarning, match="notes.safetensors"):
        cut_behind(run, 2)
    assert (run / "ledger" / "notes.safetensors").exists()
