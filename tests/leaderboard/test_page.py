import csv
import io
import math
import re

import pytest

from docs.leaderboard import boards, intervals, recorded, writing
from docs.leaderboard.page import status
from docs.leaderboard.protocols import PROTOCOLS
from docs.leaderboard.results import marks_of, scores_of
from docs.leaderboard.survival import Median
from docs.leaderboard.tables import results_of
from tests.leaderboard.folders import BOARD, REQUESTS, write_run

EFFICACY = next(protocol for protocol in PROTOCOLS if protocol.name == "retained")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    write_run(runs, "rome", 0, edits=1, collapsed=True)
    write_run(runs, "rome", 1, edits=4)
    write_run(runs, "rome", 2, edits=3, collapsed=True)
    for seed in range(3):
        write_run(runs, "memit", seed, edits=4, efficacy=0.0, negation=1.0)
    write_run(runs, "locft-bf", 0, edits=4, name="seed-0-4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boards, "RUNS", runs)
        patch.setattr(intervals, "FEWEST", 4)
        yield results_of(BOARD)


@pytest.fixture
def files(found, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "FOLDER", tmp_path)
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(writing, "MARKDOWN", tmp_path / "leaderboard.md")
    monkeypatch.setattr(writing, "results_of", lambda board: found)
    (tmp_path / "leaderboard.md").write_text(
        f"# before\n{writing.BEGIN}\nold\n{writing.END}\nend\n"
    )
    writing.write([BOARD])
    return tmp_path


def test_a_case_is_the_mean_of_the_seeds_that_reached_the_mark(found):
    scores = scores_of(found.found["rome"], EFFICACY, 4)
    assert scores == {REQUESTS[n + 10].case_id: 1.0 for n in range(1, 5)}
    assert marks_of(found.found) == [1, 2, 4]


def test_a_mark_says_how_many_runs_reached_it(found):
    runs = {line.row: line.runs for line in found.marks[4]}
    assert runs == {"rome": (1, 3), "memit": (3, 3), "locft-bf": (1, 1)}


def test_one_edit_is_counted_as_one(found):
    short = {
        row: [run._replace(journal=run.journal[:1]) for run in runs]
        for row, runs in found.found.items()
    }
    assert " runs, up to one edit, " in status(found._replace(found=short))
    assert " runs, up to 4 edits, " in status(found)


def test_rows_that_tried_fewer_settings_are_named(found):
    budget = BOARD.tuning._asdict()
    line, *others = found.survivors
    for trials, told in ((3, f" (so far among fewer: {line.row})"), (8, "")):
        less = line._replace(tuning={"budget": {**budget, "trials": trials}})
        board = BOARD._replace(tuning=BOARD.tuning._replace(trials=8))
        text = status(found._replace(board=board, survivors=[less, *others]))
        assert f"chose its settings among 8 on 2 tuning requests{told};" in text


def test_differences_to_the_reference_are_paired(found):
    memit = next(line for line in found.marks[4] if line.row == "memit")
    assert memit.differences["retained"].value == -1
    assert memit.differences["retained"].cases == 4  # those of the one seed that both have
    assert memit.differences["negation"].certain
    assert not memit.differences["paraphrase"].certain


def test_the_table_of_horizons_counts_collapses_and_leaves_others_open(found):
    lines = {line.row: line for line in found.survivors}
    assert str(lines["rome"].medians["perplexity"]).startswith("3 [")
    assert str(lines["memit"].medians["perplexity"]) == "> 4"
    assert lines["locft-bf"].medians == {}
    assert 0 < lines["memit"].pvalue < 1
    assert found.left == ["no-edit"]


def test_the_page_needs_no_network_and_every_column_sorts(files):
    text = (files / "index.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)
    heads = re.findall(r"<th [^>]*>(.*?)</th>", text)
    assert heads
    assert all(head.startswith("<button>") for head in heads)
    for table in re.findall(r"<table>(.*?)</table>", text, re.S):
        columns = table.count("<th ")
        rows = re.findall(r"<tr>(<td.*?)</tr>", table)
        assert all(row.count("<td") == columns for row in rows)
    assert '<td class="down" data-value="0.0">' in text


def test_the_markdown_keeps_what_stands_around_its_tables(files):
    text = (files / "leaderboard.md").read_text()
    assert text.startswith("# before\n")
    assert text.endswith("end\n")
    assert "old" not in text
    memit = [line for line in text.splitlines() if line.startswith("| memit | 3 of 3 | ")]
    assert "| 0 ≠ (0 to 0) |" in memit[-1]  # after four edits
    assert "≠" not in memit[0]  # after one


def test_the_csv_has_each_figure_with_its_interval(files):
    rows = list(csv.DictReader(io.StringIO((files / "leaderboard.csv").read_text())))
    told = {(row["row"], row["mark"], row["measure"]): row for row in rows}
    assert told["memit", "4", "retained"]["difference"] == "-1.0000"
    assert told["memit", "4", "perplexity"]["value"] == "200"
    assert told["rome", "", "horizon_perplexity"]["value"] == "3.0"


def test_a_sentence_learnt_has_its_figures(found):
    told = writing.lessons(found)
    assert told[0].startswith("Half of the 3 runs of rome exceed the perplexity's limit after 3 [")
    assert all(re.search(r"\d", sentence) for sentence in told)


@pytest.mark.parametrize(
    ("edits", "told"), [(3, "exceeds the perplexity's limit after 3 edits."), (None, "stays below")]
)
def test_a_single_run_is_told_as_one(edits, told, found):
    median = Median(edits or math.inf, edits or math.inf, math.inf, 4)
    lines = [
        line._replace(runs=1, medians={"perplexity": median}) if line.row == "rome" else line
        for line in found.survivors
    ]
    sentence = writing.lessons(found._replace(survivors=lines))[0]
    assert sentence.startswith(f"The only run of rome {told}")


@pytest.mark.parametrize(("reached", "best"), [(3, "rome"), (2, "locft-bf")])
def test_a_mean_of_survivors_alone_is_not_called_the_best(reached, best, found):
    runs = {"rome": (reached, 3), "locft-bf": (2, 2)}
    lines = [line._replace(runs=runs.get(line.row, line.runs)) for line in found.marks[4]]
    told = writing.lessons(found._replace(marks={4: lines}))
    kept = [sentence for sentence in told if "keeps most of the new answers" in sentence]
    assert [sentence.split(" keeps")[0] for sentence in kept] == [
        f"Of the rows all of whose runs survive, {best}"
    ]


def test_a_length_that_few_runs_have_yet_teaches_nothing(found):
    whole, begun = (
        [line._replace(runs=(runs, runs)) for line in found.marks[4]] for runs in (3, 2)
    )
    told = " ".join(writing.lessons(found._replace(marks={4: whole, 8: begun})))
    assert " after 4 edits" in told
    assert "8 edits" not in told


def test_a_baseline_tells_of_how_many_runs_its_mean_is(found):
    memit = next(line for line in found.marks[4] if line.row == "memit")
    lora = memit._replace(row="lora", runs=(2, 3))
    told = writing.lessons(found._replace(marks={4: [*found.marks[4], lora]}))
    assert "after 4 edits of one request in the 2 of 3 runs that survive, against" in told[-1]


def test_a_reference_that_survives_is_said_to(found):
    survives = found._replace(board=found.board._replace(reference="memit"))
    told = writing.lessons(survives)
    assert re.match(r"Fewer than half of the \d runs of memit .* limit within 4 edits\.", told[0])


def test_the_figure_is_drawn(files):
    assert (files / "small.png").stat().st_size > 5000
