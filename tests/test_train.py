import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from callbacks.keeping.interruption import Interruption
from callbacks.keeping.journal import read_journal
from callbacks.watching.collapse import CollapseStopping
from command_line.configs import CONFIGS, located
from lightning_modules.editing.editor import Editor
from lightning_modules.jobs.compare import Compare
from lightning_modules.jobs.verify import Verify
from tests.callbacks.runs import WEIGHT, options_of, tiny_lm, without_timings
from train import main

ROOT = Path(__file__).resolve().parents[1]
YAMLS = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if "class_path" in (yaml.safe_load(path.read_text()).get("model") or {})
)
RUN = "runs/rome/version_0"


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def options(lm, tmp_path_factory):
    """What makes ``rome.yaml`` a run of two edits of the tiny model."""
    return options_of(lm, tmp_path_factory.mktemp("data"), edits=2)


@pytest.fixture(scope="module")
def edited(options, tmp_path_factory):
    """A working folder in which ``fit`` has run, and the finished command line."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, main(["fit", *options])


def names(objects):
    return [type(thing).__name__ for thing in objects]


class TestConfigs:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("name", YAMLS)
    def test_every_config_makes_its_objects_and_reads_no_model(self, name):
        cli = main(["--config", name], run=False)
        chosen = yaml.safe_load((CONFIGS / name).read_text())
        assert type(cli.model).__name__ == chosen["model"]["class_path"].split(".")[-1]
        if isinstance(cli.model, Editor):
            assert cli.model.lm is None
        edits = isinstance(cli.model, Editor) and not isinstance(cli.model, Compare | Verify)
        if edits:
            callbacks = names(cli.trainer.callbacks)
            assert callbacks[:3] == ["EditJournal", "EditMetrics", "Perplexity"]
            assert {"CollapseStopping", "EditCheckpoint"} <= set(callbacks[3:])

    @pytest.mark.parametrize("argument", ["rome.yaml", "--config=rome.yaml", "papers/hardcf.yaml"])
    def test_a_bare_name_is_looked_up_in_configs(self, argument):
        assert located(argument).endswith(str(CONFIGS / argument.split("=")[-1]))
        assert located(argument).startswith("--config=") == argument.startswith("--config=")

    @pytest.mark.parametrize("argument", ["fit", "--model.layer=3", "unknown.yaml", "--data.limit"])
    def test_any_other_argument_stays_as_it_is(self, argument):
        assert located(argument) == argument

    def test_a_file_of_that_name_in_the_working_folder_wins(self, tmp_path):
        own = {
            "model": {
                "class_path": "lightning_modules.methods.rome.ROME",
                "init_args": {"layer": 4},
            }
        }
        (tmp_path / "rome.yaml").write_text(yaml.dump(own))
        assert located("rome.yaml") == "rome.yaml"
        assert main(["--config", "rome.yaml"], run=False).model.value_layer == 4

    def test_callbacks_of_a_config_are_added_to_the_default_ones(self):
        default = main(["--config", "rome.yaml"], run=False).trainer.callbacks
        single = main(["--config", "rome-single.yaml"], run=False).trainer.callbacks
        assert sorted(names(single)) == sorted([*names(default), "RestoreWeights"])

    def test_the_collapse_limits_can_be_given_without_naming_their_callback(self):
        limits = ["--collapse.threshold", "50", "--collapse.relative", "3"]
        callbacks = main(["--config", "rome.yaml", *limits], run=False).trainer.callbacks
        (guard,) = [c for c in callbacks if isinstance(c, CollapseStopping)]
        assert (guard.threshold, guard.relative) == (50.0, 3.0)

    def test_an_option_reaches_the_object_it_names(self):
        cli = main(["--config", "c_rome.yaml", "--data.limit", "7", "--model.seed=5"], run=False)
        assert (cli.datamodule.limit, cli.datamodule.watch_limit) == (7, 50)
        assert cli.model.seed == 5


class TestVerbs:
    @pytest.fixture(autouse=True)
    def _same_folder(self, edited, monkeypatch):
        monkeypatch.chdir(edited[0])

    def test_fit_writes_the_folder_of_the_run(self, edited):
        run = edited[0] / RUN
        written = {path.name for path in run.iterdir()}
        assert written >= {"config.yaml", "edits.jsonl", "summary.json", "health.png"}
        assert any(name.startswith("events.out") for name in written)
        assert (run / "checkpoints" / "last.ckpt").is_file()
        edits = [json.loads(line) for line in (run / "edits.jsonl").read_text().splitlines()]
        assert [edit["case_id"] for edit in edits] == [10, 11]
        assert json.loads((run / "summary.json").read_text())["applied"] == 2
        assert edited[1].trainer.global_step == 2

    def test_the_config_in_the_folder_makes_the_same_run(self):
        again = main(["fit", "--config", f"{RUN}/config.yaml"]).trainer.log_dir
        journals = [without_timings(read_journal(Path(folder))) for folder in (again, RUN)]
        assert journals[0] == journals[1]
        assert Path(again) != Path(RUN)

    def test_a_folder_that_holds_a_run_is_refused(self, options):
        with pytest.raises(ValueError, match=r"version_0 already holds a run; leave .*version out"):
            main(["fit", *options, "--trainer.logger.init_args.version", "0"])

    def test_validate_reports_the_baseline(self, edited, options):
        found = main(["validate", *options]).trainer.callback_metrics
        baseline = json.loads((edited[0] / RUN / "summary.json").read_text())["baseline"]
        assert float(found["perplexity"]) == pytest.approx(baseline["perplexity"], rel=1e-5)

    def test_test_judges_the_edits_of_the_checkpoint(self, edited, options):
        checkpoint = f"{RUN}/checkpoints/last.ckpt"
        cli = main(["test", *options, "--ckpt_path", checkpoint, "--data.limit", "4"])
        assert cli.trainer.callback_metrics["retention/edits"] == 2
        kept, made = (c.model.lm.get_parameter(WEIGHT) for c in (cli, edited[1]))
        assert kept.equal(made)

    def test_fit_resumes_where_the_checkpoint_ends(self, options):
        first = main(["fit", *options, "--trainer.max_steps", "1"]).trainer.log_dir
        rest = main(["fit", *options, "--ckpt_path", f"{first}/checkpoints/last.ckpt"])
        journals = [read_journal(Path(folder)) for folder in (first, rest.trainer.log_dir, RUN)]
        assert list(map(len, journals)) == [1, 1, 2]
        assert without_timings(journals[0] + journals[1]) == without_timings(journals[2])

    def test_a_signal_after_the_last_edit_ends_the_command_with_a_whole_run(
        self, options, monkeypatch
    ):
        def judged(callback, trainer, module):
            folders.append(Path(trainer.log_dir))
            os.kill(os.getpid(), signal.SIGTERM)

        folders = []
        monkeypatch.setattr(Interruption, "on_train_end", judged)
        with pytest.raises(SystemExit, match="143"):
            main(["fit", *options])
        assert len(read_journal(folders[0])) == 2
        assert (folders[0] / "finished").is_file()

    def test_predict_writes_the_risk_of_each_request(self, options):
        cli = main(["predict", *options])
        rows = Path(cli.trainer.log_dir, "risk.jsonl").read_text().splitlines()
        assert {json.loads(row)["case_id"] for row in rows} == {10, 11}


class TestMistakes:
    """One sentence each, which says what to do."""

    @pytest.fixture
    def said(self, options, tmp_path, monkeypatch):
        """Runs ``train.py`` as a script in this process; gives the text it exits with."""

        def run(*arguments):
            monkeypatch.chdir(tmp_path)
            monkeypatch.setattr(sys, "argv", ["train.py", "fit", *options, *arguments])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
            return ended.value.code

        return run

    def test_an_unknown_model(self, said):
        sentence = said("--model.lm", "no/such-model").splitlines()[0]
        assert sentence.startswith("error: no language model 'no/such-model'")
        assert "check the spelling" in sentence

    def test_a_layer_that_the_model_does_not_have(self, said):
        assert said("--model.layer", "9").startswith("error: layer must be in [0, 2)")

    def test_the_place_is_shown_on_request(self, said, monkeypatch):
        monkeypatch.setenv("KEEL_TRACE", "1")
        with pytest.raises(FileNotFoundError, match="no/such-model"):
            said("--model.lm", "no/such-model")

    def test_a_misspelt_option_is_an_error_of_the_command_line(self, said, capsys):
        assert said("--model.layr", "3") == 2
        assert "layr" in capsys.readouterr().err

    def test_a_missing_file_ends_without_a_traceback(self, options, tmp_path):
        arguments = ["fit", *options, "--data.path", "requsts.json"]
        ended = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
        error, hint = ended.stderr.splitlines()[-2:]
        assert error.startswith("error: 'requsts.json' is neither a file")
        assert hint == "(KEEL_TRACE=1 shows where)"
