"""A small board of the tiny model, run, continued, verified and tampered with."""

import json
import shutil

import pytest
import yaml

from callbacks.keeping.run_folder import read_journal
from callbacks.watching.standing import read_standing
from callbacks.watching.verification import Claim, Verification
from data_modules.meta_training import held_out
from docs.leaderboard import clock, launching, results, trials
from docs.leaderboard.__main__ import attempt, main, run
from docs.leaderboard.boards import Board, Cell, Tuning
from docs.leaderboard.clock import Clock, in_words
from docs.leaderboard.trials import drawn, tuned
from tests.callbacks.runs import REQUESTS, WATCHED, tiny_lm
from train import main as command_line

SUBJECTS = [f"{name} {n}" for name in ("Ada", "Ben", "Cora", "Dan") for n in range(10)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a tiny model, its requests and its watched text."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "lm").mkdir()
    tiny_lm(folder / "lm")
    requests = [
        REQUESTS[0]._replace(case_id=number, subject=subject, paraphrases=(f"{subject} rules",))
        for number, subject in enumerate(SUBJECTS)
    ]
    assert 4 <= sum(map(held_out, requests)) <= 36
    cases = [request.as_counterfact() for request in requests]
    (folder / "tiny.yaml").write_text(f"{{lm: {folder / 'lm'}, layers: [0]}}")
    (folder / "requests.json").write_text(json.dumps(cases))
    (folder / "watched.json").write_text(json.dumps([{"text": text} for text in WATCHED]))
    return folder


def board_in(place, trials=1, lengths=(2,), seeds=(0, 1), batch=1):
    options = (
        f"--config {place / 'tiny.yaml'} --data.path {place / 'requests.json'} "
        f"--data.watch {place / 'watched.json'} --data.tasks null --trainer.accelerator cpu"
    )
    rows = ("ft", "no-edit", "in-context")
    return Board(
        "tiny", "Tiny", options, "ft", "ft", seeds, batch, lengths, Tuning(trials, 2, 0), (), rows
    )


@pytest.fixture(scope="module")
def folder(place, tmp_path_factory):
    """Where the board was run."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr("docs.leaderboard.__main__.quiet", lambda: None)
        patch.setattr("docs.leaderboard.__main__.write", lambda boards: None)
        patch.setattr("docs.leaderboard.__main__.read_boards", lambda names=None: [board_in(place)])
        patch.setattr("sys.argv", ["leaderboard"])
        main([])
    return work


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def run_of(place, row="ft", seed=0):
    return Cell(board_in(place), row, seed, 2)


class TestRuns:
    def test_every_cell_was_run_with_its_settings_and_costs(self, place):
        for row in ("ft", "no-edit", "in-context"):
            for seed in (0, 1):
                cell = run_of(place, row, seed)
                assert cell.done
                assert len(read_journal(cell.folder)) == 2
                assert json.loads((cell.folder / "tuning.json").read_text())["choice"] == {}
            cost = json.loads((cell.folder.parents[1] / "cost.json").read_text())
            assert set(cost) == {"seconds", "memory", "operations", "kept"}

    def test_seeds_draw_other_requests(self, place):
        first, second = (
            [line["case_id"] for line in read_journal(run_of(place, seed=seed).folder)]
            for seed in (0, 1)
        )
        assert first != second

    def test_a_second_command_skips_what_is_done(self, place, monkeypatch, capsys):
        monkeypatch.setattr("docs.leaderboard.__main__.make", lambda *_: pytest.fail("ran again"))
        monkeypatch.setattr("docs.leaderboard.__main__.quiet", lambda: None)
        monkeypatch.setattr("docs.leaderboard.__main__.write", lambda boards: None)
        monkeypatch.setattr(
            "docs.leaderboard.__main__.read_boards", lambda names=None: [board_in(place)]
        )
        main([])
        assert capsys.readouterr().out == ""

    def test_a_longer_length_continues_the_run(self, place, tmp_path, monkeypatch):
        shutil.copytree("runs", tmp_path / "runs")
        monkeypatch.chdir(tmp_path)
        cell = Cell(board_in(place, lengths=(2, 3)), "ft", 0, 3)
        before = read_journal(cell.folder)
        assert not cell.done
        launching.make(cell, {}, ())
        assert cell.done
        assert read_journal(cell.folder)[:2] == before
        assert {line["after"] for line in read_standing(cell.folder / "standing.jsonl")} == {
            1,
            2,
            3,
        }

    def test_a_board_may_edit_several_requests_at_a_time(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        board = board_in(place, batch=3, lengths=(2,))
        cell = Cell(board, "ft", 0, 2)
        launching.make(cell, {}, ())
        assert cell.done
        cases = [case for line in read_journal(cell.folder) for case in line["case_id"]]
        assert len(set(cases)) == 6
        course = results.read_course(cell.folder, 0, None)
        for protocol in results.PROTOCOLS[:2]:
            assert set(results.scores_of([course], protocol, 2)) == set(cases)
        assert trials.trial(board, "ft", {})["failed"] == 0

    def test_a_budget_leaves_out_what_does_not_fit_and_says_so(
        self, place, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("docs.leaderboard.__main__.quiet", lambda: None)
        monkeypatch.setattr("docs.leaderboard.__main__.write", lambda boards: None)
        monkeypatch.setattr(
            "docs.leaderboard.__main__.read_boards", lambda names=None: [board_in(place)]
        )
        main(["--hours", "0.001"])
        assert "tiny: 6 runs are left, about 3 min" in capsys.readouterr().out

    def test_a_budget_leaves_out_trials_too(self, place, monkeypatch):
        monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
        monkeypatch.setattr(trials, "is_continued", lambda known, budget, ranges: True)
        monkeypatch.setattr(Clock, "per_edit", lambda self, cell: 2.0)
        asked = []
        monkeypatch.setattr(
            "docs.leaderboard.__main__.options_of", lambda board, row: asked.append(row)
        )
        for hours in (0.01, 1):  # 36 s have room for a run's start, not for 24 edits
            run(board_in(place, trials=12), Clock(hours), ["ft"])
        assert asked == ["ft"]

    def test_an_interrupted_run_has_its_settings_too(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cell = run_of(place)

        def stop(*_):
            cell.folder.mkdir(parents=True)
            raise SystemExit(143)

        monkeypatch.setattr("docs.leaderboard.__main__.make", stop)
        with pytest.raises(SystemExit):
            attempt(cell, Clock(None))
        assert json.loads((cell.folder / trials.FILE).read_text())["row"] == "ft"

    def test_a_row_that_lacks_a_file_is_left_out_and_the_others_go_on(
        self, place, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        made = []

        def attempt(cell, clock):
            made.append((cell.row, cell.seed))
            if cell.row == "ft":
                raise FileNotFoundError("no anchor; make it")

        def options_of(board, row):  # of added trials
            raise FileNotFoundError("no statistics; make them")

        monkeypatch.setattr("docs.leaderboard.__main__.attempt", attempt)
        monkeypatch.setattr("docs.leaderboard.__main__.options_of", options_of)
        (tmp_path / "runs/leaderboard/tiny/in-context/seed-0").mkdir(parents=True)
        monkeypatch.setattr(Clock, "needed", lambda self, cells: 0.0)
        run(board_in(place), Clock(None), ["ft", "no-edit", "in-context"])
        assert made == [("ft", 0), ("no-edit", 0), ("no-edit", 1)]
        told = capsys.readouterr().out
        assert "tiny ft is left out: no anchor; make it\n" in told
        assert "tiny in-context is left out: no statistics; make them\n" in told

    def test_runs_that_more_trials_set_aside_are_made_again(
        self, place, folder, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(shutil.copytree(folder, tmp_path / "copy"))
        made = []

        def set_aside(board, row):
            shutil.rmtree(Cell(board, row, 1, 2).folder.parent)

        monkeypatch.setattr("docs.leaderboard.__main__.options_of", set_aside)
        monkeypatch.setattr(
            "docs.leaderboard.__main__.attempt", lambda cell, clock: made.append(cell.name)
        )
        run(board_in(place), Clock(None), ["ft"])
        assert made == ["ft/seed-1"]

    def test_an_error_of_a_method_ends_its_run_and_no_other(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def fail(words):
            raise FloatingPointError("diverged")

        monkeypatch.setattr(launching.train, "main", fail)
        cell = run_of(place)
        launching.make(cell, {}, (FloatingPointError,))
        assert cell.done
        (course,) = results.courses(cell.board, "ft")
        assert course.error == "FloatingPointError: diverged"
        with pytest.raises(FloatingPointError):
            launching.make(cell, {}, (RuntimeError,))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(["--hours", "0"], "hours must be positive"), (["--rows", "grace"], "are not declared")],
    )
    def test_a_wrong_argument_is_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            main(arguments)


class TestTuning:
    def test_every_row_has_as_many_trials_drawn_from_its_ranges(self, place):
        board, ranges = board_in(place, trials=5), {"a": [1.0, 100.0], "b": [0.1, 0.2]}
        tries = drawn(board, "ft", ranges)
        assert (len(tries), tries[0]) == (5, {})
        assert all(1 <= t["a"] <= 100 and 0.1 <= t["b"] <= 0.2 for t in tries[1:])
        assert tries == drawn(board, "ft", ranges)
        assert drawn(board, "ft", {}) == []

    def test_the_best_trial_is_chosen_on_requests_of_the_tuning_part(
        self, place, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        ranges = {"model.learning_rate": [1e-9, 2e-9]}
        monkeypatch.setattr(trials, "ranges_of", lambda row: ranges)
        asked = []
        monkeypatch.setattr(
            trials, "edit_each", lambda cli: asked.extend(cli.datamodule.requests) or 0
        )
        monkeypatch.setattr(trials, "merit", lambda means: 0.1 * len(asked))
        found = tuned(board_in(place, trials=3), "ft")
        assert [trial["score"] for trial in found["trials"]] == pytest.approx([0.2, 0.4, 0.6])
        assert found["choice"] == found["trials"][-1]["options"]
        assert found["ranges"] == ranges
        assert not any(map(held_out, asked))
        assert tuned(board_in(place, trials=3), "ft") == found

    def test_a_trial_edits_and_judges_with_its_settings(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(trials, "merit", lambda means: means["efficacy"])
        timid, bold = (
            trials.trial(board_in(place), "ft", {"model.learning_rate": rate, "model.radius": 0.5})
            for rate in (1e-9, 0.05)
        )
        assert (timid["score"], timid["failed"]) == (timid["efficacy"], 0)
        assert timid["perplexity"] != bold["perplexity"]
        assert timid["options"] == {"model.learning_rate": 1e-9, "model.radius": 0.5}

    def test_runs_keep_the_settings_that_they_were_made_with(self, place):
        other = board_in(place)._replace(tuning=Tuning(1, 7, 0))
        with pytest.raises(ValueError, match="have the settings of another tuning budget than"):
            tuned(other, "ft")

    @pytest.mark.parametrize("changed", [False, True])
    def test_more_trials_continue_and_set_aside_runs_of_another_choice(
        self, changed, place, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
        tried = []

        def trial(board, row, options):
            tried.append(options)
            later = len(tried) > 2
            return {"options": options, "score": (0.9 if changed else 0.1) if later else 0.5}

        monkeypatch.setattr(trials, "trial", trial)
        few = tuned(board_in(place, trials=2), "ft")
        run = Cell(board_in(place), "ft", 0, 2).folder
        run.mkdir(parents=True)
        (run.parents[1] / trials.COST).touch()
        trials.copy_to(run, board_in(place, trials=2), "ft")
        more = tuned(board_in(place, trials=4), "ft")
        assert tried == drawn(board_in(place, trials=4), "ft", {"x": [1.0, 100.0]})
        assert more["trials"][:2] == few["trials"]
        assert (more["choice"] == few["choice"]) is not changed
        aside = run.parents[1] / "of-2-trials" / "seed-0" / "version_0"
        kept, content = (aside, few) if changed else (run, more)
        assert json.loads((kept / trials.FILE).read_text()) == content
        assert (run.exists(), aside.exists()) == (not changed, changed)
        assert (run.parents[1] / trials.COST).exists() is not changed

    def test_ranges_declared_later_change_no_row_whose_budget_is_spent(self, place, monkeypatch):
        monkeypatch.setattr(trials, "trial", lambda *_: pytest.fail("tried again"))
        monkeypatch.setattr(trials, "drawn", lambda *_: [{}, {"x": 1.0}])
        assert tuned(board_in(place), "ft")["choice"] == {}
        assert trials.trials_left(board_in(place), "ft") == 0

    def test_a_killed_search_goes_on_with_the_next_trial(self, place, tmp_path, monkeypatch):
        monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
        board, tried = board_in(place, trials=4), []

        def trial(board, row, options):
            if killed and len(tried) == 2:
                raise KeyboardInterrupt
            tried.append(options)
            return {"options": options, "score": options.get("x", 50.0)}

        monkeypatch.setattr(trials, "trial", trial)
        found = []
        for killed in (False, True):
            (tmp_path / str(killed)).mkdir()
            monkeypatch.chdir(tmp_path / str(killed))
            tried.clear()
            if killed:
                with pytest.raises(KeyboardInterrupt):
                    tuned(board, "ft")
                assert trials.trials_left(board, "ft") == 2
                killed = False
            found.append(tuned(board, "ft"))
            assert tried == drawn(board, "ft", {"x": [1.0, 100.0]})
        assert found[0] == found[1]
        assert not list(tmp_path.rglob("of-*"))

    def test_merit_is_romes_score_or_efficacy_alone(self):
        means = {"efficacy": 1.0, "paraphrase": 0.5, "neighborhood": 0.5}
        assert trials.merit(means) == pytest.approx(0.6)
        assert trials.merit({"efficacy": 0.7}) == 0.7

    def test_a_row_whose_trials_all_fail_says_so(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(trials, "ranges_of", lambda row: {"model.learning_rate": [0.1, 0.2]})
        monkeypatch.setattr(trials, "edit_each", lambda cli: 1)
        found = tuned(board_in(place, trials=2), "ft")
        assert (found["all_failed"], found["choice"]) == (True, {})


class TestClock:
    def test_the_rest_takes_what_the_row_took(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cell = Cell(board_in(place), "ft", 0, 10)
        cell.folder.parents[2].mkdir(parents=True)
        assert Clock().expected(cell) == clock.FIXED + 10 * clock.UNKNOWN
        Clock().add(cell, 10, clock.FIXED + 50.0)
        assert Clock().expected(cell) == clock.FIXED + 50
        assert Clock(hours=1).affords(cell)
        assert not Clock(hours=0.01).affords(cell)

    def test_the_trials_that_a_row_lacks_count_once(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
        board = board_in(place, trials=5)
        cells = [Cell(board, "ft", seed, 10) for seed in (0, 1)]
        of_edits = 2 * (clock.FIXED + 10 * clock.UNKNOWN)
        of_trials = 5 * board.tuning.edits * clock.UNKNOWN
        assert Clock().needed(cells) == of_edits + of_trials
        assert Clock().needed([]) == 0

    def test_durations_read_well(self):
        assert (in_words(61), in_words(5400)) == ("2 min", "1.5 h")


class TestVerification:
    @pytest.fixture
    def copy(self, place, tmp_path):
        """A copy of a run, to tamper with."""

        def copied(row="ft"):
            return shutil.copytree(run_of(place, row).folder, tmp_path / row)

        return copied

    def verify(self, run, *options):
        words = ["test", "--config", "leaderboard/verify.yaml", "--model.ledger", str(run)]
        return command_line([*words, "--trainer.accelerator", "cpu", *options])

    @pytest.mark.parametrize("row", ["ft", "in-context"])
    def test_an_honest_run_agrees_to_the_bit(self, copy, row):
        run = copy(row)
        self.verify(run)
        told = json.loads((run / "verified.json").read_text())
        assert (told["agrees"], told["largest_difference"]) == (True, 0)
        assert told["figures"] > 10

    def tampered(self, file, change):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        change(lines)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def test_a_better_score_is_found(self, copy):
        run = copy()
        self.tampered(
            run / "standing.jsonl", lambda lines: lines[-1].update(paraphrase_token_accuracy=0.77)
        )
        with pytest.raises(
            ValueError, match="claims what its ledger does not hold: paraphrase_tok"
        ):
            self.verify(run)
        assert not json.loads((run / "verified.json").read_text())["agrees"]

    def test_a_lower_perplexity_is_found(self, copy):
        run = copy()
        self.tampered(run / "edits.jsonl", lambda lines: lines[-1].update(perplexity=12.0))
        with pytest.raises(ValueError, match="perplexity after edit 2 12, found"):
            self.verify(run)

    def test_a_better_score_at_the_edit_is_found(self, copy):
        run = copy()
        self.tampered(run / "edits.jsonl", lambda lines: lines[0].update(neighborhood=0.123))
        with pytest.raises(ValueError, match="neighborhood at the edit 0"):
            self.verify(run)

    def test_a_ledger_of_other_updates_is_found(self, copy, place):
        run, other = copy(), run_of(place, seed=1).folder
        shutil.copyfile(
            other / "ledger" / "000002.safetensors", run / "ledger" / "000002.safetensors"
        )
        with pytest.raises(ValueError, match="claims what its ledger does not hold"):
            self.verify(run)

    def test_a_damaged_ledger_is_found(self, copy):
        file = copy() / "ledger" / "000001.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match="its checksum does not fit"):
            self.verify(file.parents[1])

    def test_requests_of_ones_own_choice_are_found(self, copy):
        run = copy()
        file = run / "config.yaml"
        config = yaml.safe_load(file.read_text())
        config["data"]["init_args"]["seed"] = 5
        file.write_text(yaml.safe_dump(config))
        with pytest.raises(ValueError, match=r"requests that its config\.yaml does not draw"):
            self.verify(run)

    def test_a_run_without_a_ledger_is_refused(self, copy):
        run = copy()
        shutil.rmtree(run / "ledger")
        with pytest.raises(FileNotFoundError, match="holds no ledger"):
            self.verify(run)

    def test_a_run_without_claims_is_refused(self, copy):
        run = copy()
        (run / "standing.jsonl").unlink()
        with pytest.raises(ValueError, match=r"has no standing\.jsonl: it was not run with"):
            self.verify(run)

    def test_a_run_of_another_model_is_refused(self, copy, tmp_path):
        (tmp_path / "other").mkdir()
        other = tiny_lm(tmp_path / "other", seed=1)
        with pytest.raises(ValueError, match="holds edits of another model"):
            self.verify(copy(), "--model.lm", other)

    @pytest.mark.parametrize("options", [{"tolerance": 0}, {"every_n_edits": 0}])
    def test_a_number_must_be_positive(self, options):
        with pytest.raises(ValueError, match="must be positive"):
            Verification(**options)

    def test_a_claim_differs_by_more_than_the_tolerance(self):
        assert not Claim("a", 100.0, 100.4).differs(0.005)
        assert Claim("a", 100.0, 101.0).differs(0.005)
        assert Claim("a", 0.5, 0.51).differs(0.005)
        assert Claim("a", 0.5, float("nan")).differs(0.005)
        assert not Claim("a", float("inf"), float("inf")).differs(0.005)
