"""The torture script: what it counts and what it notices."""

from tests.torture import MARKS, Trial, put_between_marks, table, tortured


def test_a_killed_run_that_was_resumed_has_lost_nothing(tmp_path):
    trials = tortured(tmp_path, minutes=2, kills=1, chosen=["sequential"], seed=0)["sequential"]
    assert sum(trial.kills for trial in trials) >= 1
    assert all(trial.differs == [] for trial in trials)


def test_the_table_counts_what_was_lost():
    text = table({"sweep": [Trial(2, []), Trial(3, ["edits.jsonl"])]})
    assert "| sweep | 5 | 2 | 3 |" in text
    assert "| all | 5 | 2 | 3 |" in text


def test_the_figures_stand_between_the_marks():
    page = "before\n" + "".join(MARKS) + "after\n"
    written = put_between_marks(put_between_marks(page, "old\n"), "new\n")
    assert written == f"before\n{MARKS[0]}new\n{MARKS[1]}after\n"
