import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from callbacks.keeping.run_folder import Claim, append


@contextmanager
def small_files():
    """No file may grow beyond 20 bytes, as if the disk were full; nor may pytest's own report."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_lines_are_appended(tmp_path):
    for line in ("one", "zwölf"):
        append(tmp_path / "journal", line)
    assert (tmp_path / "journal").read_text("utf-8") == "one\nzwölf\n"


@pytest.mark.parametrize("line", ["0123456789abcdef", "x" * 100])
def test_a_line_for_which_the_disk_has_no_room_leaves_those_before_whole(tmp_path, line):
    journal = tmp_path / "journal"
    append(journal, "0123456789")
    said = r"journal takes no further line .*continue with --ckpt_path last"
    with small_files(), pytest.raises(OSError, match=said):
        append(journal, line)
    assert journal.read_text() == "0123456789\n"
    with small_files():
        append(journal, "short")
    assert journal.read_text() == "0123456789\nshort\n"


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path):
    claim = Claim(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"another run is writing to .*run; wait until it ends, or"
    ):
        Claim(tmp_path / "run")
    claim.release()
    Claim(tmp_path / "run").release()


def test_a_folder_is_free_again_when_the_process_that_held_it_is_killed(tmp_path):
    held = "import fcntl, os, sys; d = os.open(sys.argv[1], 0); fcntl.flock(d, fcntl.LOCK_EX)"
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", f"{held}; print(flush=True); input()", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="another run is writing"):
            Claim(tmp_path)
        other.kill()
    Claim(tmp_path).release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Claim(tmp_path / "file" / "run")
