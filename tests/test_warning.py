"""Tables and the picture of docs/warning.md, from made-up runs."""

import json
import math

import pytest
import yaml

from docs import warning_tables
from docs.reproduce import filled
from docs.warning_experiments import EMBEDDED, EXPERIMENTS, SMOLLM2

BASELINE = {"perplexity": 100.0, "perplexity_pooled": 90.0, "text_entropy": 4.0}
BASELINE |= {"log_perplexity": math.log(100), "tasks/lambada": 0.8}


def run_folder(folder, drifts, collapse=None, ledger=None, **figures):
    """A run whose hidden states drift, and whose perplexity jumps at one edit."""
    inner = folder / "version_0"
    inner.mkdir(parents=True)
    lines = []
    for number, drift in enumerate(drifts, 1):
        perplexity = 900.0 if number == collapse else 100.0 + number
        edit = {"edit": number, "state_drift": drift, "weight_change": drift / 2}
        edit |= {"perplexity": perplexity, "log_perplexity": math.log(perplexity)}
        edit |= {"collapsed": number == collapse, "tasks": {"lambada": 0.8 - drift / 2}}
        lines.append(json.dumps(edit | figures) + "\n")
    (inner / "edits.jsonl").write_text("".join(lines))
    (inner / "summary.json").write_text(json.dumps({"baseline": BASELINE}))
    config = {"model": {"init_args": {"ledger": ledger} if ledger else {}}}
    (inner / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def runs(tmp_path):
    made = {}
    for seed in range(3):
        made[f"mend-seed-{seed}"] = run_folder(
            tmp_path / f"mend-seed-{seed}", [0.0, 0.1, 0.4, 0.5, 0.9], collapse=5
        )
        made[f"ft-seed-{seed}"] = run_folder(
            tmp_path / f"ft-seed-{seed}", [0.0, 0.05, 0.1, 0.12, 0.15, 0.1, 0.1, 0.12]
        )
    return made


def test_the_page_tells_events_verdicts_and_draws_them(runs, tmp_path):
    text = warning_tables.verdicts(runs, tmp_path / "warning")
    assert "| mend-seed-0 | 5 | 5 | 3 | 2 |" in text
    assert "| ft-seed-0 | 8 | - | - | 2 |" in text
    drift = next(line for line in text.splitlines() if line.startswith("| state drift |"))
    assert drift.split(" | ")[1:3] == ["3", "100.0"]
    assert drift.split(" | ")[4] == "2"  # from edit 3 to edit 5
    assert "| 0 of 3 | 0.0 % | 0.15 |" in drift
    assert (tmp_path / "warning" / "warning.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "warning" / "numbers.json").read_text())
    assert numbers["perplexity"]["state_drift"]["lead"]["value"] == 2


def test_another_models_runs_are_told_by_these_limits(runs, tmp_path):
    other = run_folder(tmp_path / "other-rome", [0.1, 0.2, 0.2], collapse=3)
    row = warning_tables.transferred(runs, {"other-rome": other}).splitlines()[-1]
    assert row.startswith("| other-rome | 3 | 3 |")
    assert "| 2 (0.2) |" in row


def test_a_replay_has_the_denominators_of_its_run(tmp_path):
    made = run_folder(tmp_path / "made", [0.1, 0.2], denominator=0.5)
    replay = run_folder(tmp_path / "replay", [0.1, 0.2], ledger=str(made / "version_0"))
    found = warning_tables.course(replay, "0").signals
    assert found["denominator"].tolist() == pytest.approx([math.log(2)] * 2)
    assert (
        "denominator" not in warning_tables.course(run_folder(tmp_path / "x", [0.1]), "0").signals
    )


def test_the_sections_have_their_places():
    page = "".join(f"<!-- {n}: make reproduce -->\n<!-- end of {n} -->\n" for n in EXPERIMENTS)
    assert "x" in filled(page, dict.fromkeys(EXPERIMENTS, "x"))
    assert not set(EMBEDDED) & set(SMOLLM2)
