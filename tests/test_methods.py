import json
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from callbacks.watching.collapse import CollapseStopping
from command_line.configs import CONFIGS
from data_modules.edit_requests import EditingDataModule
from docs.courses import Course, marks
from docs.methods import BEGIN, END, METHODS, cell, figure, main, table
from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.editor import Editor
from tests.callbacks.runs import REQUESTS, WATCHED, WEIGHT, tiny_lm
from train import main as command_line

SCORES = {"efficacy": 1.0, "paraphrase": 0.5, "neighborhood": 0.25}
NORMAL = [r for r in REQUESTS if not r.prompt.startswith("{}") or " " in r.subject]


class Growing(Editor):
    """Every edit adds 1 to one more entry of a weight, that of one edit 10,000."""

    def __init__(self, deadly, **options):
        super().__init__(**options)
        self.deadly = deadly

    def edited_weights(self):
        return [WEIGHT]

    def edit(self, requests):
        change = torch.zeros(32, 128)
        number = len(self.edited_cases)
        change.view(-1)[number] = 1e4 if number + 1 == self.deadly else 1
        yield Update(WEIGHT, change)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    (folder / "lm").mkdir()
    tiny_lm(folder / "lm")
    cases = [NORMAL[n % len(NORMAL)]._replace(case_id=n).as_counterfact() for n in range(40)]
    (folder / "requests.json").write_text(json.dumps(cases))
    (folder / "watched.json").write_text(json.dumps([{"text": text} for text in WATCHED]))
    return folder


@pytest.fixture
def counted(monkeypatch):
    """Perplexity is 100 and the distance from the original weights."""
    monkeypatch.setattr(
        Course, "perplexity", lambda self: 100 + self.editor.edited.distance(self.editor.original)
    )


def course(folder, edits, deadly=0, kind="normal"):
    data = EditingDataModule(str(folder / "requests.json"), watch=str(folder / "watched.json"))
    trainer = SimpleNamespace(callbacks=[CollapseStopping(threshold=1000)])
    model = Growing(deadly, lm=str(folder / "lm"))
    return Course(SimpleNamespace(model=model, datamodule=data, trainer=trainer), kind, edits)


def row(method="rome", kind="normal", **changes):
    return {
        "method": method,
        "kind": kind,
        "edits": 10,
        "available": 10,
        "collapsed": None,
        "failed": 0,
        "curve": [[0, 190.0], [1, 195.5], [10, 300.0]],
        "retained": [[1, SCORES], [10, SCORES]],
        "limit": 1000.0,
    } | changes


@pytest.mark.usefixtures("counted")
class TestCourse:
    @pytest.mark.parametrize("deadly", [3, 11, 14, 20])
    def test_collapse_is_found_to_the_very_edit(self, folder, deadly):
        run = course(folder, 30, deadly)
        run.one_by_one()
        assert run.collapsed == deadly
        assert run.curve[-1] == (deadly, pytest.approx(1e4 + 100, rel=1e-3))
        assert all(perplexity < 110 for _, perplexity in run.curve[:-1])
        assert sorted(run.retained) == [mark for mark in (1, 10, 30) if mark <= deadly]

    def test_a_model_that_survives_is_seen_to_the_end(self, folder):
        run = course(folder, 25)
        run.one_by_one()
        assert run.collapsed is None
        assert [number for number, _ in run.curve] == [*range(11), 20, 25]
        assert list(run.retained) == [1, 10, 25]
        assert len(run.editor.edited_cases) == 25

    def test_all_edits_so_far_are_judged_on_the_model_as_it_is(self, folder, monkeypatch):
        run = course(folder, 10)
        asked = []

        def judge(request):
            asked.append((request.case_id, len(run.editor.edited_cases)))
            return SCORES

        monkeypatch.setattr(run.editor, "judge", judge)
        run.one_by_one()
        order = [request.case_id for request in run.requests]
        assert asked == [(order[0], 1), *((case_id, 10) for case_id in order)]

    def test_a_failed_edit_is_counted(self, folder, monkeypatch):
        run = course(folder, 3)

        def fail(requests):
            raise FloatingPointError("no")
            yield

        monkeypatch.setattr(run.editor, "edit", fail)
        run.one_by_one()
        assert (run.failed, run.collapsed, run.curve[-1]) == (3, None, (3, 100))

    def test_kinds_share_no_request(self, folder):
        assert len(course(folder, 50).requests) == 40
        assert course(folder, 50, kind="one word first").requests == []


def test_breadth_first_training_begins_anew_at_every_mark(folder):
    def trained(edits, wanted):
        arguments = ["--config", "locft-bf.yaml", "--model.layers", "[0]"]
        arguments += ["--model.lm", str(folder / "lm"), "--trainer.max_epochs", "3"]
        arguments += ["--data.path", str(folder / "requests.json")]
        arguments += ["--data.watch", str(folder / "watched.json"), "--data.batch_size", "2"]
        run = Course(command_line(arguments, run=False), "normal", edits)
        run.marks = wanted
        run.all_at_once()
        return run

    several, one = trained(3, {1, 3}), trained(3, {3})
    assert list(several.retained) == [1, 3]
    assert several.curve[-1] == one.curve[-1]
    assert torch.equal(*(run.editor.edited.master(WEIGHT) for run in (several, one)))


@pytest.mark.parametrize(
    ("edits", "judged"), [(1, [1]), (2, [1, 2]), (10, [1, 10]), (200, [1, 10, 50, 200])]
)
def test_marks_end_with_the_last_edit(edits, judged):
    assert marks(edits) == judged


class TestTable:
    def test_a_row_tells_retention_and_perplexity(self):
        lines = table([row(kind="one word first"), row("ft"), row()], 10).splitlines()
        assert lines[0] == "| config | requests | after 1 | after 10 | collapse |"
        assert lines[2] == "| ft | normal | 100 / 50 / 25, 195.5 | 100 / 50 / 25, 300 | - |"
        assert lines[3].startswith("| rome | normal | ")
        assert lines[4].startswith("| rome | one word first | ")

    def test_a_collapsed_model_has_no_more_scores(self):
        collapsed = row(collapsed=4, failed=2, retained=row()["retained"][:1])
        assert table([collapsed], 10).endswith("| 100 / 50 / 25, 195.5 | - | 4 (2 failed) |")

    def test_fewer_requests_than_asked_for_are_said_to_be_fewer(self):
        assert cell(row(), 200) == "100 / 50 / 25, 300 (after 10)"

    def test_the_figure_is_written(self, tmp_path):
        collapsed = row("ft", collapsed=10, curve=[[0, 190.0], [10, float("inf")]], retained=[])
        figure([row(), collapsed, row("memit", "one word first")], tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 10_000

    def test_the_figure_has_a_line_for_each_method_survivors_that_remember_first(
        self, tmp_path, monkeypatch
    ):
        drawn = []
        monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
        forgetful = row("memit", retained=[[1, SCORES], [10, SCORES | {"efficacy": 0.2}]])
        dead = row("ft", collapsed=4, curve=[[0, 190.0], [4, 5e4]], retained=[[1, SCORES]])
        figure([dead, forgetful, row()], tmp_path / "figure.png")
        survives, healthy, remembers = drawn[0].axes
        assert [label.get_text() for label in survives.get_yticklabels()] == ["rome", "memit", "ft"]
        ends = [line.get_xdata()[-1] for line in survives.lines if line.get_marker() != "None"]
        assert ends == [4, 10, 10]
        assert [line.get_xdata()[0] for line in healthy.lines][:3] == [1350, 300, 300]
        assert [line.get_xdata()[0] for line in remembers.lines] == [100, 20, 100]
        assert [text.get_text() for text in remembers.texts] == ["of 1"]


class TestCommand:
    @pytest.fixture
    def page(self, tmp_path):
        (tmp_path / "methods.md").write_text(f"before\n{BEGIN}\nold\n{END}\nbehind\n")
        return tmp_path / "methods.md"

    def test_every_method_has_a_config(self):
        assert all((CONFIGS / f"{method}.yaml").exists() for method in METHODS)

    def test_the_embedded_model_gets_its_rows(self, page, monkeypatch):
        monkeypatch.setattr("docs.courses.quiet", lambda: None)  # other tests want to hear
        other = row("ft", edits=1, available=1)
        stale = row("rome", edits=7)
        page.with_suffix(".json").write_text(json.dumps([other, stale]))
        asked = ["--methods", "memit", "--edits", "1", "--processes", "1", "--page", str(page)]
        main(asked)
        before, *lines, end, behind = page.read_text().splitlines()
        assert (before, lines[0], end, behind) == ("before", BEGIN, END, "behind")
        assert [line.split(" | ")[0] for line in lines[3:]] == ["| ft", "| memit", "| memit"]
        rows = json.loads(page.with_suffix(".json").read_text())
        assert [(r["method"], r["kind"]) for r in rows] == [
            ("ft", "normal"), ("memit", "normal"), ("memit", "one word first"),
        ]  # fmt: skip
        assert all(r["retained"][0][1]["efficacy"] == 1 for r in rows[1:])
        assert all(abs(r["curve"][0][1] - 193.7) < 0.1 for r in rows[1:])
        assert page.with_suffix(".png").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--methods", "rome,grace"], r"methods \['grace'\] are not in the table; choose from"),
            (["--edits", "0"], "edits and processes must be positive, got 0"),
        ],
    )
    def test_a_wrong_argument_is_named(self, page, arguments, message):
        with pytest.raises(ValueError, match=message):
            main([*arguments, "--page", str(page)])

    def test_a_page_without_a_place_is_refused_before_any_edit(self, page):
        page.write_text("no table here")
        with pytest.raises(ValueError, match="has no place for the table"):
            main(["--page", str(page)])
