import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from callbacks.keeping.run_folder import read_journal
from command_line.configs import CONFIGS
from docs import rome_tables, smollm2_tables, tables
from docs.experiments import METHODS, SEQUENTIAL
from docs.reproduce import BOOKS, filled, line, main, reads, rounds, wrapped
from train import main as command_line

COMMANDS = {
    book.runs / name: text
    for book in BOOKS.values()
    for experiment in book.experiments.values()
    for name, text in experiment.commands.items()
}
HEAVY = (  # their models or data are the papers', not the embedded ones
    *("hardcf", "hard-edit", "hardedit", "t5-keys", "single-edits-zsre", "tasks-in-full"),
    *("all-cases", "collapse-cases", "normal-cases"),
)
SHORT = ["--data.limit", "3", "--data.watch_limit", "4", "--model.contexts", "{5: 2}"]
STUDIES = {  # predict; what makes them short
    "fact-survey": SHORT[:2],
    "sink": [*SHORT[2:4], "--model.layers=[1]", "--model.first=1", "--model.normal=1"],
}
ON_TOP = {"warning": "rome.yaml"}  # of a method's config
ENDLESS = {
    "perplexity-against-tasks": [
        "--data.tasks.limit=4",
        "--trainer.callbacks.in_full=false",
    ]
}
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
    content = {"method": "ROME", "baseline": baseline, "collapsed_at": 1}
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder


def test_what_was_not_measured_is_a_dash():
    rows = [("a", "b"), (None, float("nan")), (float("inf"), 0.25)]
    assert tables.markdown(rows).splitlines()[2:] == ["| - | - |", "| infinite | 0.25 |"]


@pytest.mark.parametrize("run", COMMANDS, ids=str)
def test_every_command_of_the_pages_makes_its_objects(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, *options = shlex.split(line(run, COMMANDS[run]))
    cli = command_line(
        [o for o in options if o not in ("--ckpt_path",) and ".ckpt" not in o], False
    )
    assert verb in ("fit", "test", "predict")
    assert Path("runs", cli.trainer.logger.name) == run


@pytest.mark.filterwarnings("ignore:no risk is calibrated")  # by so few edits
@pytest.mark.parametrize(
    "config",
    sorted(f.stem for f in (CONFIGS / "papers").glob("*.yaml") if not f.stem.startswith(HEAVY)),
)
def test_every_experiment_runs_on_the_embedded_model_in_short(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb = "predict" if config in STUDIES or config.startswith("keys") else "fit"
    short = STUDIES.get(config, [*SHORT, *ENDLESS.get(config, [])])
    below = ["--config", ON_TOP[config]] if config in ON_TOP else []
    command_line([verb, *below, "--config", f"papers/{config}.yaml", *short])
    (run,) = tmp_path.glob("runs/*/version_0")
    assert {file.name for file in run.iterdir()} & {
        "summary.json",
        "key_geometry.json",
        "sink.json",
        "stated.json",
    }


def test_hard_edit_goes_from_templates_through_the_filter_into_a_sequence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command_line(["predict", "--config", "papers/hard-edit-templates.yaml"])
    made = "runs/hard-edit/version_0/hard_edit.json"
    command_line(["fit", "--config", "papers/hard-edit-filter.yaml", "--data.path", made, *SHORT])
    tried = tmp_path / "runs/hard-edit-filter/version_0"
    collapsed = [edit["collapsed"] for edit in read_journal(tried)]
    assert len(collapsed) == 3
    assert len(json.loads((tried / "hard_cases.json").read_text())) == sum(collapsed)
    sequence = ["fit", "--config", "papers/hard-edit-sequential.yaml", "--data.path", made, *SHORT]
    command_line(sequence)
    journal = tmp_path / "runs/hard-edit-sequential/version_0/edits.jsonl"
    first = json.loads(journal.read_text().splitlines()[0])
    assert first["prompt"].startswith("{}")
    assert first["subject"] == json.loads((tmp_path / made).read_text())[0]["subject"]


@pytest.mark.parametrize("book", BOOKS.values(), ids=BOOKS)
def test_a_page_has_a_place_for_every_experiment_and_names_no_other(book):
    text = book.page.read_text("utf-8")
    assert filled(text, dict.fromkeys(book.experiments, "x")) != text
    sharing = [other for other in BOOKS.values() if other.page == book.page]
    marked = sum(len(other.experiments) for other in sharing)
    assert text.count("make reproduce -->") == marked


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
    assert reads(f"{commands['b']} --model.output runs/papers/b/version_0/y.safetensors") == {"a"}
    assert [sorted(r) for r in rounds(commands, set())] == [["a", "c"], ["b"]]
    assert [sorted(r) for r in rounds(commands, {"a", "other"})] == [["b", "c"]]
    with pytest.raises(ValueError, match=r"\['a'\] wait for one another"):
        list(rounds({"a": "fit --data.path runs/papers/a/version_0/x.json"}, set()))


def test_a_long_command_is_broken_before_options_alone():
    options = [f"--option{number} {number:020}" for number in range(6)]
    lines = wrapped(" ".join(["python train.py fit", *options])).split(" \\\n  ")
    assert " ".join(lines) == " ".join(["python train.py fit", *options])
    assert all(text.startswith("--") and len(text) <= 96 for text in lines[1:])
    assert len(lines) == 3


def test_an_unknown_experiment_is_refused():
    with pytest.raises(ValueError, match=r"\['pilot'\] are unknown; choose from"):
        main(["--only", "pilot"])


def test_every_method_is_run_on_hard_and_on_normal_requests():
    assert {name.partition("-")[0] for name in SEQUENTIAL} == {"hard", "normal"}
    assert len(SEQUENTIAL) == 2 * len(METHODS)


def test_the_groups_are_the_collapses_the_other_one_word_subjects_and_the_rest(tmp_path):
    run = run_folder(tmp_path / "run", EDITS)
    found = tables.groups(read_journal(run))
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
        "| hard-rome | infinite | 0.5 |",
    ]


def test_the_curves_of_all_methods_are_drawn(tmp_path):
    runs = {name: run_folder(tmp_path / name, EDITS) for name in ("hard-rome", "normal-rome")}
    tables.curves(runs, tmp_path / "papers" / "curves.png")
    assert (tmp_path / "papers" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_highest_perplexities_are_compared_case_by_case(tmp_path):
    finite = [edit | {"perplexity": edit["perplexity"] or 7e3} for edit in EDITS]
    rome = run_folder(tmp_path / "rome", finite)
    others = [{**edit, "perplexity": 11.0 + edit["edit"]} for edit in finite]
    parts = [
        run_folder(tmp_path / name, part) for name, part in (("a", others[:1]), ("b", others[1:2]))
    ]
    assert rome_tables.highest(rome, parts).splitlines()[2:] == [
        "| collapse | 1 | 5000 | 12 |",  # case 9 is in neither part
        "| one word first | 0 | - | - |",
        "| normal | 1 | 20 | 13 |",
    ]


def test_figures_that_no_edit_of_a_group_has_are_absent(tmp_path):
    edits = [{**EDITS[1], "numerator_norm": 4.0, "denominator": 2.0, "key_cosine": 0.5}]
    last = rome_tables.fractions(run_folder(tmp_path / "run", edits)).splitlines()[2:]
    assert last[0] == "| collapse | 0 | - | - | - | - |"
    assert last[2] == "| normal | 1 | 4 | 2 | 0.5 | 20 |"


def test_positions_stand_beside_one_another(tmp_path):
    edits = [edit | {"denominator": 0.5} for edit in EDITS[:2]]
    runs = {f"position-{n}": run_folder(tmp_path / str(n), edits[n:]) for n in (0, 1)}
    assert rome_tables.positions(runs).splitlines()[2:] == [
        "| 0 | 2 | 10 | 20 | 2510 | 5000 | 0.5 |",
        "| 1 | 1 | 10 | 20 | 20 | 20 | 0.5 |",
    ]


def test_a_prefix_policy_and_the_kind_of_requests_are_told_by_the_runs_name():
    scores = {"efficacy": 1.0, "efficacy_token_accuracy": 0.5, "neighborhood_agreement": 0.25}
    edits = [edit | scores for edit in EDITS]
    last = rome_tables.prefixes({"prefix-none-hard": edits}).splitlines()[-1]
    assert last == "| hard | none | 3 | 50.0 | - | 25.0 | 100.0 |"


def test_single_edits_at_the_first_token_stand_apart_with_wilsons_interval(tmp_path):
    edits = [edit | {"perplexity": edit["perplexity"] or 7e3} for edit in EDITS]
    run = run_folder(tmp_path / "run", edits)
    first = tmp_path / "first_token.json"
    first.write_text(json.dumps([{"case_id": 7}, {"case_id": 9}, {"case_id": 11}]))
    assert smollm2_tables.by_position({"single-rome": run}, first).splitlines()[2:] == [
        "| rome | first token | 2 | 2 | 34 to 100 % | 5000 | 7000 | 7000 | - | - | - | - |",
        "| rome | elsewhere | 1 | 0 | 0 to 79 % | 20 | 20 | 20 | - | - | - | - |",
    ]


def sweep(folder, seed, shift):
    """Edits that collapse the more probably, the smaller their denominators."""
    draw = np.random.default_rng(seed)
    folder.mkdir()
    lines = []
    for edit in range(60):
        small = draw.uniform() < 0.5
        figures = {
            "status": "applied",
            "denominator_relative": float(np.exp(draw.normal(-6 if small else -1) + shift)),
            "key_cosine": float(draw.uniform(0, 0.5) if small else draw.uniform(0.3, 1)),
            "subject_position": int(not small),
            "perplexity": 1e4 if small == (draw.uniform() < 0.9) else 10.0,
        }
        lines.append(json.dumps({"edit": edit + 1, "case_id": edit} | figures) + "\n")
    (folder / "edits.jsonl").write_text("".join(lines))
    return folder


def test_a_probability_is_judged_on_the_model_it_was_not_fitted_on(tmp_path):
    sweeps = {"a": sweep(tmp_path / "a", 0, 0.0), "b": sweep(tmp_path / "b", 1, 0.5)}
    rows = [row.strip("| ").split(" | ") for row in smollm2_tables.transfer(sweeps).splitlines()]
    assert [row[:3] for row in rows[2:]] == [["a", "b", "60"], ["b", "a", "60"]]
    assert all(0.7 < float(row[5]) <= 1 for row in rows[2:])
    assert all(float(row[7]) < float(row[8]) for row in rows[2:])


def test_the_calibration_error_weighs_each_bins_gap_by_its_edits():
    destroyed = np.array([True, False, True, True])
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    assert smollm2_tables.calibration_error(destroyed, probability) == pytest.approx(
        (2 * abs(0.5 - 0.05) + 2 * abs(1 - 0.975)) / 4
    )
    assert smollm2_tables.calibration_error(destroyed, destroyed.astype(float)) == 0


def test_a_treatment_has_a_row_and_a_method_a_column(tmp_path):
    scores = {"none": {"efficacy_exact_match": 1.0, "named": 1.0, "perplexity": 90.0}}
    scores["int4"] = {"efficacy_exact_match": 0.8, "named": 0.6, "perplexity": 93.25}
    content = {"method": "ROME", "edits": 5, "scores": scores}
    (tmp_path / "survival.json").write_text(json.dumps(content))
    assert smollm2_tables.survival({"survival-rome": tmp_path}).splitlines() == [
        "| treatment | rome: stated, named of 5, perplexity |",
        "| --- | --- |",
        "| none | 5, 5, 90 |",
        "| int4 | 4, 3, 93.25 |",
    ]


def test_a_survey_counts_facts_of_both_kinds(tmp_path):
    for name, cases in {"first": [1, 2], "stated": [2, 3, 4]}.items():
        (tmp_path / name).write_text(json.dumps([{"case_id": case} for case in cases]))
    found = smollm2_tables.survey(tmp_path / "first", tmp_path / "stated", "nine").splitlines()
    assert found[2:] == [
        "| stated, of nine | 3 |",
        "| subject is the first token | 2 |",
        "| both | 1 |",
    ]


def test_a_risk_has_its_area_and_its_thresholds(tmp_path):
    area = {"value": 0.9, "low": 0.8, "high": 1.0}
    cut = {"threshold": 0.5, "flagged": 4, "caught": 3, "false_alarms": 1, "recall": 1.0}
    judged = {
        "perplexity_above": 1000.0,
        "destroyed": 3,
        "edits": 9,
        "auroc": {"denominator": area},
        "thresholds": {"denominator": [cut]},
    }
    (tmp_path / "risk_calibration.json").write_text(json.dumps({"collapse": judged}))
    text = rome_tables.risk(tmp_path)
    assert "| perplexity > 1000 (3) | 9 | denominator | 0.9 | 0.800-1.000 |" in text
    assert "| denominator | 0.5 | 4 | 3 | 1 | - | 1 |" in text
