import json

import pytest

from callbacks.keeping.run_folder import read_journal
from callbacks.studies.survival import REPLY, EditSurvival, survival_figure
from lightning_modules.editing.replies import replies
from lightning_modules.language_model.matching import names
from tests.callbacks.runs import fit, tiny_lm, watching

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


def test_every_edit_is_judged_again_after_each_treatment(tmp_path):
    lm = tiny_lm(tmp_path / "lm")
    run = fit(lm, tmp_path, [*watching(), EditSurvival(steps=2)])
    (file,) = tmp_path.rglob("survival.json")
    content = json.loads(file.read_text())
    assert content["edits"] == len(run.data.requests)
    assert list(content["scores"]) == ["none", "bfloat16", "int8", "int4", "lora"]  # no template
    untouched = content["scores"]["none"]
    last = read_journal(file.parent)[-1]
    now = [run.editor.judge(request) for request in run.data.requests]
    assert untouched["efficacy_exact_match"] == pytest.approx(
        sum(score["efficacy_exact_match"] for score in now) / len(now)
    )
    said = replies(run.editor, run.data.requests, REPLY)
    named = [names(text, r.target_new) for text, r in zip(said, run.data.requests, strict=True)]
    assert untouched["named"] == sum(named) / len(named)
    assert untouched["perplexity"] == pytest.approx(last["perplexity"], rel=1e-4)
    assert content["scores"]["int4"]["perplexity"] != untouched["perplexity"]
    assert list(tmp_path.rglob("survival.png"))


def test_the_figure_has_a_row_per_treatment():
    stated = {"none": 1, "int4": 0.5}
    found = {name: {"efficacy_exact_match": s, "named": s / 2} for name, s in stated.items()}
    (axes,) = survival_figure(found, 10).axes
    drawn = {line.get_label(): list(line.get_xdata()) for line in axes.get_lines()}
    assert drawn == {"stated": [1, 0.5], "named": [0.5, 0.25]}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "int4"]


def test_unknown_treatments_and_no_steps_are_refused():
    with pytest.raises(ValueError, match=r"\['int3'\] are unknown; choose from"):
        EditSurvival(["none", "int3"])
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        EditSurvival(steps=0)
