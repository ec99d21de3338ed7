import math
import re

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.progress import EditBar
from callbacks.keeping.run_folder import read_journal
from callbacks.keeping.summary import verdict
from callbacks.watching.collapse import CollapseStopping
from callbacks.watching.guard import CollapseGuard
from callbacks.watching.restore import RestoreWeights
from callbacks.watching.signals import WarningSignals
from data_modules.forms.readers import read_requests
from lightning_modules.editing.collapse_risk import Calibration, Feature
from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.ledger import read_ledger
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.rome import ROME, ConsistentROME
from tests.callbacks.runs import (
    METHOD,
    REQUESTS,
    data_of,
    fit,
    options_of,
    trainer_in,
    watching,
    without_timings,
)
from tests.test_devices import run_on

AMONG_OTHER_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
HARD = [REQUESTS[1]]
NORM = "transformer.ln_f.weight"
OTHERS = [request for request in REQUESTS if request not in HARD]


class Wrecks(ROME):
    """ROME whose edit of case 11 destroys the model."""

    def edited_weights(self):
        return [*super().edited_weights(), NORM]

    def edit(self, requests):
        yield from super().edit(requests)
        if requests[0].case_id == 11:
            yield Update(NORM, torch.full((32,), 50.0))


class WrecksToo(Wrecks):
    """Another one."""


def guarded(lm, folder, method=Wrecks, requests=REQUESTS, resume=None, **options):
    """A run whose guard stands first, that is in the wrong place."""
    options = {"relative": 2.0} | options
    callbacks = [CollapseGuard(**options), *watching(), EditLedger()]
    return fit(lm, folder, callbacks, requests, method=method, resume=resume)


@pytest.fixture(scope="module")
def healthy(lm, tmp_path_factory):
    """The run without the edit that destroys the model."""
    return fit(lm, tmp_path_factory.mktemp("healthy"), watching(), OTHERS)


@pytest.fixture(scope="module")
def rolled_back(lm, tmp_path_factory):
    return guarded(lm, tmp_path_factory.mktemp("rolled_back"))


def test_without_a_guard_the_model_collapses_and_the_run_ends(lm, tmp_path):
    run = fit(lm, tmp_path, watching(), method=Wrecks)
    assert run.column("collapsed") == [False, True]


def test_an_edit_that_harms_is_taken_back_and_the_run_goes_on(rolled_back, healthy):
    assert rolled_back.column("status") == ["applied", "rolled_back", "applied", "applied"]
    assert torch.equal(rolled_back.weight, healthy.weight)
    assert rolled_back.editor.edited_cases == [10, 12, 13]
    assert [entry.edit for entry in read_ledger(rolled_back.folder)] == [1, 3, 4]


def test_its_line_has_the_perplexity_it_led_to_and_the_next_line_a_healthy_one(
    rolled_back, healthy
):
    refused = rolled_back.edits[1]
    assert refused["perplexity"] > 1000
    limit = 2 * rolled_back.editor.baseline["perplexity"]  # of two perplexities near each other
    assert refused["reason"].startswith(f"perplexity {refused['perplexity']:.4g} > ")
    assert float(refused["reason"].split("> ")[1]) == pytest.approx(limit, rel=0.01)
    watched = [n for i, n in enumerate(rolled_back.column("perplexity")) if i != 1]
    assert watched == healthy.column("perplexity")


def test_the_summary_tells_what_was_refused_and_counts_it_for_nothing_else(rolled_back, healthy):
    summary = rolled_back.summary
    assert summary["rolled_back"] == [2]
    assert (summary["edits"], summary["applied"], summary["collapsed_at"]) == (4, 3, None)
    for name in ("final_perplexity", "highest_perplexity"):
        assert summary[name] == healthy.summary[name]
    assert verdict(summary).startswith("3 edits, 1 more taken back, no collapse: perplexity at")


def test_refused_requests_are_written_in_counterfacts_form(lm, tmp_path):
    run = guarded(lm, tmp_path, action="quarantine")
    assert run.column("status")[1:3] == ["rolled_back", "applied"]
    assert read_requests(str(tmp_path / "hard_cases.json")) == HARD


def test_a_request_without_a_true_answer_survives_the_quarantine(lm, tmp_path):
    hard = [REQUESTS[2]._replace(case_id=11)]
    guarded(lm, tmp_path, action="quarantine", requests=hard)
    assert read_requests(str(tmp_path / "hard_cases.json")) == hard


def test_a_guard_may_stop_the_run_with_the_model_healthy(lm, tmp_path, healthy):
    run = guarded(lm, tmp_path, action="stop")
    assert run.column("status") == ["applied", "rolled_back"]
    assert run.editor.edited_cases == [10]


def test_a_refused_edit_is_made_by_another_method(lm, tmp_path, sequential):
    run = guarded(lm, tmp_path, retry=ROME(**METHOD))
    assert run.column("method") == ["Wrecks", "ROME", "Wrecks", "Wrecks"]
    assert run.column("status") == ["applied"] * 4
    assert torch.equal(run.weight, sequential.weight)
    figures = {"perplexity", "efficacy", "efficacy_before", "denominator", "update_norm"}
    for one, other in zip(run.edits, sequential.edits, strict=True):
        for name in figures & other.keys():
            assert one[name] == pytest.approx(other[name], rel=1e-9), name
    assert run.edits[1]["reason"].startswith("made by ROME; Wrecks: perplexity ")
    assert run.edits[1]["collapsed"] is False
    assert len(read_ledger(tmp_path)) == 4


@pytest.mark.parametrize("steps", [1, 3])
def test_a_refused_edit_is_made_by_fine_tuning(lm, tmp_path, steps):
    run = guarded(lm, tmp_path, retry=FineTuning(layers=[0], steps=steps, goal=1e-9))
    assert run.column("method") == ["Wrecks", "FineTuning", "Wrecks", "Wrecks"]
    assert run.column("status") == ["applied"] * 4
    assert run.edits[1]["steps"] == steps
    assert 0 < run.edits[1]["update_norm"] < run.edits[0]["update_norm"]


def test_what_the_other_method_makes_is_judged_too(lm, tmp_path, healthy):
    run = guarded(lm, tmp_path, retry=WrecksToo(**METHOD))
    assert run.column("status") == ["applied", "rolled_back", "applied", "applied"]
    assert "; WrecksToo: perplexity " in run.edits[1]["reason"]
    assert run.edits[1]["method"] == "Wrecks"
    assert torch.equal(run.weight, healthy.weight)


def test_an_edit_of_high_risk_is_refused_before_it_is_watched(lm, tmp_path, sequential):
    denominators = sequential.column("denominator")
    limit = sorted(denominators)[0] * 1.0001
    risky = denominators.index(min(denominators))
    run = guarded(lm, tmp_path, method=ROME, denominator=limit)
    assert [status == "rolled_back" for status in run.column("status")] == [
        number == risky for number in range(4)
    ]
    edit = run.edits[risky]
    assert edit["reason"] == f"denominator {edit['denominator']:.3g} < {limit:g}"
    before = [run.editor.baseline["perplexity"], *run.column("perplexity")][risky]
    assert edit["perplexity"] == before


def test_an_edit_of_high_risk_is_made_by_another_method(lm, tmp_path):
    run = guarded(lm, tmp_path, ROME, denominator=math.inf, retry=ConsistentROME(**METHOD))
    assert run.column("status") == ["rolled_back"] * 4
    assert all("; ConsistentROME: denominator " in reason for reason in run.column("reason"))


def test_an_edit_whose_value_search_failed_is_refused_and_told_a_layer(lm, tmp_path):
    bound = METHOD | {"value": ValueSearchOptions(steps=5, clamp=1e-3), "layer": 1}
    guard = CollapseGuard(unconverged=0)
    trainer = trainer_in(tmp_path, [*watching(), guard])
    editor = ROME(lm=lm, **bound)
    trainer.fit(editor, datamodule=data_of())
    edits = read_journal(tmp_path)
    assert [edit["status"] for edit in edits] == ["rolled_back"] * 4
    for name, original in editor.original.items():
        assert torch.equal(editor.edited.master(name), original)
    for edit in edits:
        assert edit["value_unconverged"] == 1
        assert "it did not converge: in layer 1 the target's probability" in edit["reason"]
        assert edit["reason"].endswith("a short search converges in none of the lower layers tried")
        assert edit["perplexity"] == pytest.approx(editor.baseline["perplexity"])


def test_by_default_such_an_edit_stands(lm, tmp_path):
    bound = METHOD | {"value": ValueSearchOptions(steps=5, clamp=1e-3)}
    trainer = trainer_in(tmp_path, [*watching(), CollapseGuard()])
    trainer.fit(ROME(lm=lm, **bound), datamodule=data_of(REQUESTS[:1]))
    (edit,) = read_journal(tmp_path)
    assert (edit["status"], edit["value_unconverged"]) == ("applied", 1)


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match="unconverged must be a share from 0 to 1, got 2"):
        CollapseGuard(unconverged=2)


@pytest.mark.parametrize("together", [1, 4])
def test_single_edits_are_judged_too(lm, tmp_path, together):
    callbacks = [RestoreWeights(together), *watching(), CollapseGuard(denominator=math.inf)]
    run = fit(lm, tmp_path, callbacks, method=Wrecks)
    assert run.column("status") == ["rolled_back"] * 4
    baseline = run.editor.baseline["perplexity"]
    assert run.column("perplexity") == pytest.approx([baseline] * 4, rel=1e-9)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("retry", [False, True], ids=["undone", "made again"])
def test_the_bar_shows_the_perplexity_of_the_model_that_is_left(
    lm, tmp_path, capsys, monkeypatch, single, retry
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    guard = CollapseGuard(relative=2.0, retry=ROME(**METHOD) if retry else None)
    callbacks = [*watching(), guard, EditBar(), *([RestoreWeights()] if single else [])]
    seen = {"logger": CSVLogger(tmp_path, name=""), "enable_progress_bar": True}
    run = fit(lm, tmp_path, callbacks, REQUESTS[:2], method=Wrecks, **seen)
    shown = re.split(r"[],]", capsys.readouterr().out.rsplit("perplexity=", 1)[1])[0]
    first, second = (edit["perplexity"] for edit in read_journal(tmp_path / "version_0"))
    before = run.editor.baseline["perplexity"] if single else first
    assert float(shown) == float(f"{second if retry else before:.3g}")


def test_the_limit_follows_the_median_of_healthy_perplexities():
    guard = CollapseGuard(threshold=100.0, relative=2.0)
    guard.healthy = [10.0, 30.0, 20.0]
    assert guard.harm({"perplexity": 40.0}) == ""
    assert guard.harm({"perplexity": 40.1}) == "perplexity 40.1 > 40"
    guard.healthy = [80.0]
    assert guard.harm({"perplexity": 100.1}) == "perplexity 100.1 > 100"
    assert guard.harm({"perplexity": math.nan}) == "perplexity nan > 100"


def test_a_perplexity_that_is_not_finite_is_refused_whatever_the_threshold():
    guard = CollapseGuard(threshold=math.inf)
    assert guard.harm({"perplexity": math.inf}) != ""
    assert guard.harm({"perplexity": 1e300}) == ""


@AMONG_OTHER_CALLBACKS
def test_a_resumed_guard_decides_as_if_never_stopped(lm, tmp_path):
    def callbacks(folder):
        keeper = ModelCheckpoint(folder / "saved", "{step}", every_n_train_steps=1, save_top_k=-1)
        guard = CollapseGuard("quarantine", relative=1.3)
        return [*watching(), guard, keeper]

    whole = fit(lm, tmp_path, callbacks(tmp_path), method=Wrecks, enable_checkpointing=True)
    rest = fit(
        lm,
        tmp_path / "rest",
        callbacks(tmp_path / "rest"),
        method=Wrecks,
        resume=tmp_path / "saved" / "step=3.ckpt",
        enable_checkpointing=True,
    )
    assert without_timings(rest.edits) == without_timings(whole.edits[3:])
    assert torch.equal(rest.weight, whole.weight)
    assert read_requests(str(tmp_path / "rest" / "hard_cases.json")) == HARD


@pytest.mark.parametrize("rarely", [{"val_check_interval": 2}, {"limit_val_batches": 0}])
def test_a_run_that_does_not_watch_every_edit_is_refused(lm, tmp_path, rarely):
    with pytest.raises(ValueError, match="CollapseGuard judges each edit by the watching after"):
        fit(lm, tmp_path, [*watching(), CollapseGuard()], **rarely)


def test_a_second_method_that_edits_elsewhere_is_refused(lm, tmp_path):
    with pytest.raises(ValueError, match="give both the same layers"):
        guarded(lm, tmp_path, retry=ROME(**(METHOD | {"layer": 1})))


def test_an_edit_of_too_high_a_probability_of_collapse_is_refused_unseen(lm, tmp_path, sequential):
    relative = sequential.column("denominator_relative")
    cut = Feature(math.log(min(relative) * 1.0001), deviation=1e-6, coefficient=-1.0)

    class Foretelling(ROME):
        def prepare(self):
            super().prepare()
            self.risk.calibration = Calibration({"log_denominator_relative": cut}, 0.0)

    run = guarded(lm, tmp_path, method=Foretelling, risk=0.5)
    refused = [n for n, status in enumerate(run.column("status")) if status == "rolled_back"]
    assert refused[0] == relative.index(min(relative))
    reason = run.edits[refused[0]]["reason"]
    assert reason == "probability of collapse 1 > 0.5"


def test_a_risk_that_no_calibration_tells_is_refused_before_any_edit(lm, tmp_path):
    with pytest.raises(ValueError, match=r"ROME has no calibration.*--model\.calibration"):
        guarded(lm, tmp_path, method=ROME, risk=0.5)
    assert (tmp_path / "edits.jsonl").read_text() == ""


@pytest.mark.parametrize("risk", [0.0, 1.5])
def test_a_risk_is_a_probability(risk):
    with pytest.raises(ValueError, match="risk must be a probability above 0"):
        CollapseGuard(risk=risk)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"relative": 1.0}, {"denominator": -1.0}])
def test_limits_that_no_edit_could_meet_are_refused(options):
    with pytest.raises(ValueError, match="threshold must be positive, relative above 1 and"):
        CollapseGuard(**options)


def test_nothing_that_keeps_an_edit_or_stops_comes_before_the_guard(rolled_back):
    names = [type(callback).__name__ for callback in rolled_back.trainer.callbacks]
    place = names.index(CollapseGuard.__name__)
    for later in (CollapseStopping, EditLedger):
        assert names.index(later.__name__) > place
    assert names.index("Perplexity") < place


def test_an_edit_beyond_the_limit_of_a_signal_is_taken_back(lm, tmp_path):
    plain = fit(lm, tmp_path / "plain", [*watching(), WarningSignals(prompts=0)])
    changes = plain.column("weight_change")
    limit = (changes[0] + changes[1]) / 2
    signals = [WarningSignals(prompts=0), CollapseGuard(signals={"weight_change": limit})]
    run = fit(lm, tmp_path / "guarded", [*signals, *watching()])
    assert run.column("status")[:2] == ["applied", "rolled_back"]
    assert run.edits[1]["reason"] == f"weight_change {changes[1]:.4g} > {limit:g}"
    assert run.edits[1]["weight_change"] == changes[1]


def test_the_signals_of_a_second_method_are_measured_anew(lm, tmp_path):
    guard = CollapseGuard(signals={"weight_change": 1e-9}, retry=FineTuning(layers=[0], steps=1))
    run = fit(lm, tmp_path, [*watching(), WarningSignals(prompts=0), guard], REQUESTS[:1])
    first, second = (part.split(" > ")[0] for part in run.edits[0]["reason"].split("; "))
    assert first.startswith("weight_change ")
    assert second.startswith("FineTuning: weight_change ")
    assert first.split()[-1] != second.split()[-1]


@pytest.mark.parametrize("measuring", [[], [WarningSignals(every_n_edits=2)]])
def test_a_signal_that_is_not_measured_after_every_edit_is_refused(lm, tmp_path, measuring):
    guard = CollapseGuard(signals={"state_drift": 0.5})
    with pytest.raises(ValueError, match=r"a limit for state_drift, which nothing measures.*add"):
        fit(lm, tmp_path, [*watching(), *measuring, guard])


def test_a_limit_for_a_signal_that_the_run_leaves_out_is_refused(lm, tmp_path):
    guard = CollapseGuard(signals={"text_entropy": 1.0})
    with pytest.raises(ValueError, match=r"limit for text_entropy, which .* text_entropy needs"):
        fit(lm, tmp_path, [*watching(), WarningSignals(prompts=0), guard])


def test_a_guard_that_is_named_before_the_signals_judges_by_them(lm, tmp_path):
    guard = CollapseGuard(signals={"weight_change": 1e-9})
    run = fit(lm, tmp_path, [*watching(), guard, WarningSignals(prompts=0)], REQUESTS[:1])
    assert run.column("status") == ["rolled_back"]


@pytest.mark.slow
@pytest.mark.parametrize(("action", "refused"), [("quarantine", [11, 12, 14]), ("stop", [11])])
def test_a_sweep_on_two_devices_knows_what_each_of_them_refuses(lm, tmp_path, action, refused):
    (tmp_path / "refusing.py").write_text(
        "from callbacks.watching.guard import CollapseGuard\n"
        "class Refusing(CollapseGuard):\n"
        "    def harm(self, record):\n"
        "        return 'as told' * (record['case_id'] in (11, 12, 14))\n"
    )
    run = run_on(
        tmp_path,
        2,
        *("fit", *options_of(lm, tmp_path, edits=5)),
        "--trainer.callbacks+=callbacks.watching.restore.RestoreWeights",
        "--trainer.callbacks+=refusing.Refusing",
        f"--trainer.callbacks.action={action}",
    )
    edits = read_journal(run)
    assert [edit["case_id"] for edit in edits if edit["status"] == "rolled_back"] == refused
    if action == "quarantine":
        cases = read_requests(str(run / "hard_cases.json"))
        assert [case.case_id for case in cases] == refused
    kept = torch.load(run / "checkpoints/last.ckpt")["callbacks"]["Refusing"]
    healthy = [edit["perplexity"] for edit in edits if edit["status"] == "applied"]
    assert kept["healthy"][1:] == healthy


def test_the_default_limit_is_a_multiple_of_the_unedited_perplexity():
    guard = CollapseGuard()
    guard.unedited = 20.0
    assert guard.harm({"perplexity": 100.0}) == ""
    assert guard.harm({"perplexity": 101.0}) == "perplexity 101 > 100"
    guard = CollapseGuard(threshold=1000.0)
    guard.unedited = 20.0
    assert guard.harm({"perplexity": 101.0}) == ""
