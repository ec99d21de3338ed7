import json

import pytest

from callbacks.keeping.journal_file import JournalFile


def line(edit):
    return json.dumps({"edit": edit})


@pytest.fixture
def journal(tmp_path):
    """A journal of three lines."""
    file = tmp_path / "edits.jsonl"
    file.touch()
    journal = JournalFile(file)
    journal.take_up(0)
    for edit in (1, 2, 3):
        journal.add(line(edit))
    return journal


def test_its_first_lines_fit_the_digest_of_when_they_were_all(journal):
    lines, digest = journal.lines, journal.digest
    journal.add(line(4))
    assert journal.misfit(lines, digest) == ""
    journal.take_up(lines)
    assert (journal.lines, journal.digest) == (lines, digest)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], "holds 0 of the 3 lines"),
        ([line(1), line(3)], "holds 2 of the 3 lines"),
        ([line(1), line(1), line(2), line(3)], "holds edit 1 2 times"),
        ([line(1), "{", line(3)], "is broken at line 2"),
        ([line(1), line(2), line(4)], "is not what the run wrote"),
    ],
    ids=["emptied", "lost line", "doubled line", "broken line", "foreign line"],
)
def test_lines_lost_doubled_broken_or_foreign_are_noticed(journal, content, why):
    journal.file.write_text("".join(f"{text}\n" for text in content))
    assert journal.misfit(3, journal.digest).startswith(why)
    with pytest.raises(OSError, match=f"edits.jsonl {why} .*during the run"):
        journal.require_whole()


def test_a_journal_replaced_under_a_running_run_is_noticed(journal):
    copy = journal.file.with_suffix(".copy")
    copy.write_text(journal.file.read_text())
    copy.replace(journal.file)
    with pytest.raises(OSError, match="changed or replaced by another program"):
        journal.add(line(4))


def test_a_line_added_by_another_program_is_noticed(journal):
    journal.file.write_text(journal.file.read_text() + line(4) + "\n")
    with pytest.raises(OSError, match="changed or replaced by another program"):
        journal.add(line(4))
