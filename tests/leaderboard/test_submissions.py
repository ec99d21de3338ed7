"""A submission is verified from its ledger; a tampered one is found."""

import json
import shutil

import pytest
import yaml

from callbacks.watching.verification import Claim, Verification
from tests.callbacks.runs import tiny_lm
from tests.leaderboard.tiny_board import run_of
from train import main as command_line

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def copy(place, tmp_path):
    """A copy of a run, to tamper with."""

    def copied(row="ft"):
        return shutil.copytree(run_of(place, row).folder, tmp_path / row)

    return copied


def verify(run, *options):
    words = ["test", "--config", "leaderboard/verify.yaml", "--model.ledger", str(run)]
    return command_line([*words, "--trainer.accelerator", "cpu", *options])


@pytest.mark.parametrize("row", ["ft", "in-context"])
def test_an_honest_run_agrees_to_the_bit(copy, row):
    run = copy(row)
    verify(run)
    told = json.loads((run / "verified.json").read_text())
    assert (told["agrees"], told["largest_difference"]) == (True, 0)
    assert told["figures"] > 10


def tampered(file, change):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_better_score_is_found(copy):
    run = copy()
    tampered(run / "standing.jsonl", lambda lines: lines[-1].update(paraphrase_token_accuracy=0.77))
    with pytest.raises(ValueError, match="claims what its ledger does not hold: paraphrase_tok"):
        verify(run)
    assert not json.loads((run / "verified.json").read_text())["agrees"]


def test_a_lower_perplexity_is_found(copy):
    run = copy()
    tampered(run / "edits.jsonl", lambda lines: lines[-1].update(perplexity=12.0))
    with pytest.raises(ValueError, match="perplexity after edit 2 12, found"):
        verify(run)


def test_a_better_score_at_the_edit_is_found(copy):
    run = copy()
    tampered(run / "edits.jsonl", lambda lines: lines[0].update(neighborhood=0.123))
    with pytest.raises(ValueError, match="neighborhood at the edit 0"):
        verify(run)


def test_a_ledger_of_other_updates_is_found(copy, place):
    run, other = copy(), run_of(place, seed=1).folder
    shutil.copyfile(other / "ledger" / "000002.safetensors", run / "ledger" / "000002.safetensors")
    with pytest.raises(ValueError, match="claims what its ledger does not hold"):
        verify(run)


def test_a_damaged_ledger_is_found(copy):
    file = copy() / "ledger" / "000001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="its checksum does not fit"):
        verify(file.parents[1])


def test_requests_of_ones_own_choice_are_found(copy):
    run = copy()
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["data"]["init_args"]["seed"] = 5
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"requests that its config\.yaml does not draw"):
        verify(run)


def test_a_run_without_a_ledger_is_refused(copy):
    run = copy()
    shutil.rmtree(run / "ledger")
    with pytest.raises(FileNotFoundError, match="holds no ledger"):
        verify(run)


def test_a_run_without_claims_is_refused(copy):
    run = copy()
    (run / "standing.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has no standing\.jsonl: it was not run with"):
        verify(run)


def test_a_run_of_another_model_is_refused(copy, tmp_path):
    (tmp_path / "other").mkdir()
    other = tiny_lm(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="holds edits of another model"):
        verify(copy(), "--model.lm", other)


@pytest.mark.parametrize("options", [{"tolerance": 0}, {"every_n_edits": 0}])
def test_a_number_must_be_positive(options):
    with pytest.raises(ValueError, match="must be positive"):
        Verification(**options)


def test_a_claim_differs_by_more_than_the_tolerance():
    assert not Claim("a", 100.0, 100.4).differs(0.005)
    assert Claim("a", 100.0, 101.0).differs(0.005)
    assert Claim("a", 0.5, 0.51).differs(0.005)
    assert Claim("a", 0.5, float("nan")).differs(0.005)
    assert not Claim("a", float("inf"), float("inf")).differs(0.005)
