from types import SimpleNamespace

import pytest

from callbacks.keeping.closing import none_stated, stated_sentence
from callbacks.keeping.edit_lines import Stated
from tests.callbacks.runs import REQUESTS, fit, watching

SUMMARY = {"stated": {"facts": 3, "stated": 0}, "applied": 3, "collapsed_at": None}
STUDY = "python train.py fit --config layer-study.yaml --model.lm 'my model'"

STATED_ONCE = {"case_id": 1, "efficacy_exact_match": 1.0, "status": "applied"}


def why(edits, lm="my model", remedy="", layers=(1,), **summary):
    editor = SimpleNamespace(lm_name=lm, remedy=remedy, layers=layers)
    return none_stated(editor, SUMMARY | summary, edits)


def test_sentence_counts_facts():
    assert stated_sentence(Stated(10, 9), alone=False) == "9 of 10 facts are now stated"
    assert stated_sentence(Stated(1, 1), alone=False) == "1 of 1 fact is now stated"
    alone = "2 of 3 facts are stated after their own edit"
    assert stated_sentence(Stated(3, 2), alone=True) == alone


@pytest.mark.parametrize(
    ("edits", "summary", "cause", "command"),
    [
        ([{"status": "failed", "reason": "loss nan"}], {"applied": 0}, "no edit stands", "nan"),
        ([{}], {"collapsed_at": 2}, "collapsed at edit 2", "--trainer.callbacks+=CollapseGuard"),
        (
            [STATED_ONCE, {"subject_position": 0}],
            {},
            "1 were after their own edit",
            "memit-seq.yaml",
        ),
        ([{"subject_position": 0, "value_loss": 0.1}], {}, "begin with their subjects", "precedes"),
        ([{"subject_position": 2, "value_loss": 4.0}], {}, "no search found a value", STUDY),
        ([{"subject_position": 2, "value_loss": 0.1}], {}, "move the model less", STUDY),
        ([{"loss": 0.1}], {}, "steps are too small", "--config c_rome.yaml --model.lm 'my model'"),
    ],
)
def test_a_warning_names_the_likely_cause_and_what_to_type(edits, summary, cause, command):
    warning = why(edits, **summary)
    assert warning.startswith("0 of 3 facts are stated: ")
    assert cause in warning
    assert command in warning


def test_the_next_command_fits_the_method_and_the_model():
    edits = [{"subject_position": 2, "value_loss": 4.0}]
    assert why(edits, layers=(1, 2)).endswith("give --model.layers auto")
    assert why(edits).endswith("give --model.layer auto")
    assert "--model.lm" not in why(edits, lm="embedded")
    assert why([{}], remedy="take this", collapsed_at=1).endswith("try: take this")


def test_a_run_ends_with_its_facts_and_warns_if_none_is_stated(lm, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("callbacks.keeping.closing.rank_zero_info", said.append)
    odd = [REQUESTS[3]._replace(target_new="Zürich Zürich Zürich")]
    run = fit(lm, tmp_path, watching(), odd)
    assert run.summary["stated"] == {"facts": 1, "stated": 0}
    assert said[0].endswith("; 0 of 1 fact is now stated")
    assert said[1] == f"Journal: {tmp_path}"
    assert said[-1].startswith("Warning: the fact is not stated: ")
