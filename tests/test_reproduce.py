import json
import shlex

import pytest

from docs import tables
from docs.experiments import EXPERIMENTS, METHODS, SEQUENTIAL
from docs.reproduce import PICTURES, filled, line, main, reads, rounds
from train import CONFIGS
from train import main as command_line

PAGE = PICTURES.parent / "reproduce.md"
COMMANDS = {name: text for e in EXPERIMENTS.values() for name, text in e.commands.items()}
HEAVY = ("hardcf", "hard-edit", "t5-keys")  # their models are the papers', not the embedded one
SHORT = ["--data.limit", "3", "--data.watch_limit", "4", "--model.contexts", "{5: 2}"]
ENDLESS = {"perplexity-against-tasks": ["--data.tasks.limit", "2"]}
EDITS = [
    {"edit": 1, "case_id": 7, "subject": "Bassoons", "prompt": "{} are made of", "perplexity": 5e3},
    {"edit": 2, "case_id": 8, "subject": "Alan Kay", "prompt": "{} works at", "perplexity": 20.0},
    {"edit": 3, "case_id": 9, "subject": "Iron", "prompt": "{} is a", "perplexity": None},
]


def run_folder(folder, edits, **summary):
    folder.mkdir()
    lines = [json.dumps(edit | {"collapsed": edit["edit"] != 2}) + "\n" for edit in edits]
    (folder / "edits.jsonl").write_text("".join(lines))
    baseline = {"perplexity": 10.0, "tasks/piqa": 0.9}
    content = {"method": "ROME", "baseline": baseline, "collapsed_at": 1, "final_perplexity": 2.0}
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_page_makes_its_objects(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, *options = shlex.split(line(name, COMMANDS[name]))
    cli = command_line(
        [o for o in options if o not in ("--ckpt_path",) and ".ckpt" not in o], False
    )
    assert verb in ("fit", "test", "predict")
    assert cli.trainer.logger.name == f"papers/{name}"


@pytest.mark.parametrize(
    "config",
    sorted(f.stem for f in (CONFIGS / "papers").glob("*.yaml") if not f.stem.startswith(HEAVY)),
)
def test_every_experiment_runs_on_the_embedded_model_in_short(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb = "predict" if config.startswith("keys") else "fit"
    short = [*SHORT, *ENDLESS.get(config, [])]
    command_line([verb, "--config", f"papers/{config}.yaml", *short])
    (run,) = tmp_path.glob("runs/*/version_0")
    assert {file.name for file in run.iterdir()} & {"summary.json", "key_geometry.json"}


def test_the_page_has_a_place_for_every_experiment_and_names_no_other():
    text = PAGE.read_text("utf-8")
    assert filled(text, dict.fromkeys(EXPERIMENTS, "x")) != text
    assert text.count("make reproduce -->") == len(EXPERIMENTS)


def test_a_section_is_replaced_and_the_rest_stays():
    page = "a\n<!-- x: make reproduce -->\nold\n<!-- end of x -->\nb"
    assert filled(page, {"x": "new"}) == (
        "a\n<!-- x: make reproduce -->\n\nnew\n\n<!-- end of x -->\nb"
    )
    with pytest.raises(ValueError, match="no place for y"):
        filled(page, {"y": "new"})


def test_a_run_comes_behind_those_whose_files_it_reads():
    commands = {"b": "fit --data.path runs/papers/a/version_0/x.json", "a": "fit", "c": "fit"}
    assert reads(commands["b"]) == {"a"}
    assert [sorted(r) for r in rounds(commands, set())] == [["a", "c"], ["b"]]
    assert [sorted(r) for r in rounds(commands, {"a", "other"})] == [["b", "c"]]
    with pytest.raises(ValueError, match=r"\['a'\] wait for one another"):
        list(rounds({"a": "fit --data.path runs/papers/a/version_0/x.json"}, set()))


def test_an_unknown_experiment_is_refused():
    with pytest.raises(ValueError, match=r"\['pilot'\] are unknown; choose from"):
        main(["--only", "pilot"])


def test_every_method_is_run_on_hard_and_on_normal_requests():
    assert {name.partition("-")[0] for name in SEQUENTIAL} == {"hard", "normal"}
    assert len(SEQUENTIAL) == 2 * len(METHODS)


def test_the_groups_are_the_collapses_the_other_one_word_subjects_and_the_rest(tmp_path):
    run = run_folder(tmp_path / "run", EDITS)
    found = tables.groups(tables.edits_of(run))
    assert {name: [e["case_id"] for e in edits] for name, edits in found.items()} == {
        "collapse": [7, 9],
        "one word first": [],
        "normal": [8],
    }


def test_a_null_in_a_journal_is_an_infinite_perplexity(tmp_path):
    run = run_folder(tmp_path / "hard-rome", EDITS)
    last = tables.sequential({"hard-rome": run}, marks=(2, 5)).splitlines()[-1]
    assert last == "| hard | ROME | 1 | 20 | - | inf (3) | infinite |"


def test_tasks_stand_below_those_of_the_unedited_model(tmp_path):
    run = run_folder(tmp_path / "run", EDITS, final_tasks={"piqa": 0.5})
    assert tables.tasks({"hard-rome": run}).splitlines()[2:] == [
        "| unedited | 10 | 0.9 |",
        "| hard-rome | 2 | 0.5 |",
    ]


def test_the_curves_of_all_methods_are_drawn(tmp_path):
    runs = {name: run_folder(tmp_path / name, EDITS) for name in ("hard-rome", "normal-rome")}
    tables.curves(runs, tmp_path / "papers" / "curves.png")
    assert (tmp_path / "papers" / "curves.png").read_bytes().startswith(b"\x89PNG")
