import math
from types import SimpleNamespace

import lightning as L
import pytest

from callbacks.keeping.hyper_parameters import (
    CEILING,
    OUTCOME,
    drawn,
    hyper_parameters,
    in_words,
    outcome,
    unedited,
)
from callbacks.keeping.schedule import StandsAlone
from callbacks.keeping.summary import summarize

CARD = {
    "method": "ROME",
    "lm": "/models/gpt2",
    "layers": [3, 4, 5],
    "seed": 0,
    "chat": "off",
    "separator": None,
    "second_moment": "identity",
    "value": {"steps": 20, "learning_rate": 0.5, "clamp": 2.0, "goal": 0.05},
    "contexts": ["{}", "Then {}"],
    "fingerprint": "1a2b",
    "weights": ["h.3"],
}


def row(callbacks: list[L.Callback], **card):
    editor = SimpleNamespace(card=lambda: CARD | card, transform=None)
    data = SimpleNamespace(path="/data/facts.json", requests=[1, 2], batch_size=2, seed=None)
    return hyper_parameters(SimpleNamespace(datamodule=data, callbacks=callbacks), editor)


def test_a_run_is_told_by_method_model_layers_search_and_data():
    assert row([]) == {
        "method": "ROME",
        "model": "gpt2",
        "layers": "3-5",
        "seed": 0,
        "second_moment": "identity",
        "value.steps": 20,
        "value.learning_rate": 0.5,
        "value.clamp": 2.0,  # not the default of 4; the goal is
        "contexts": 2,
        "edits_from": "the edited model",
        "data": "facts.json",
        "data.requests": 2,
        "data.batch_size": 2,
    }


def test_single_edits_start_from_the_original_model_and_a_table_is_told_in_words():
    found = row([StandsAlone()], null_dimensions={"3": 7})
    assert (found["edits_from"], found["null_dimensions"]) == ("the original model", "{'3': 7}")


@pytest.mark.parametrize(
    ("layers", "words"), [([], ""), ([5], "5"), ([3, 4, 5, 9], "3-5, 9"), ([1, 3], "1, 3")]
)
def test_layers_are_told_as_ranges(layers, words):
    assert in_words(layers) == words


def test_the_outcome_has_what_compares_runs_and_no_infinity():
    edits = [
        {"edit": 1, "status": "applied", "perplexity": 30.0, "efficacy": 1.0},
        {"edit": 2, "status": "applied", "perplexity": math.inf, "efficacy": 0.0, "collapsed": 1},
    ]
    summary = summarize(edits, {}) | {"stated": {"facts": 4, "stated": 1}}
    assert outcome(summary) == {
        "final/applied": 2,
        "final/collapsed": 1,
        "final/collapsed_at": 2,
        "final/rolled_back": 0,
        "final/efficacy": 0.5,
        "final/log_perplexity": CEILING,
        "final/stated": 0.25,
    }


def test_before_the_first_edit_the_outcome_is_the_unedited_models():
    assert unedited({"perplexity": 20.0, "tasks/piqa": 0.5}) == {
        "final/applied": 0,
        "final/collapsed": 0,
        "final/rolled_back": 0,
        "final/final_perplexity": 20.0,
        "final/highest_perplexity": 20.0,
        "final/log_perplexity": math.log(20.0),
    }
    assert "final/log_perplexity" not in unedited({})


def test_every_figure_of_an_outcome_has_its_column():
    edits = [{"edit": 1, "status": "applied", "perplexity": 30.0, "collapsed": True}]
    edits[0] |= dict.fromkeys(("efficacy", "paraphrase", "neighborhood", "seconds_edit"), 1.0)
    summary = summarize(edits, {}) | {"stated": {"facts": 4, "stated": 1}}
    assert outcome(summary).keys() == set(OUTCOME)


def test_a_perplexity_beyond_all_bounds_is_drawn_at_the_ceiling():
    assert [drawn(x) for x in (3.0, math.inf, math.nan, 700.0)] == [3.0, CEILING, CEILING, CEILING]
