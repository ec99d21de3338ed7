import math

import pytest
import torch

from callbacks.keeping.edit_lines import (
    Stated,
    line_of,
    requests_of,
    stated_at_edits,
    stated_now,
)
from callbacks.keeping.progress import EditBar
from callbacks.watching.restore import RestoreWeights
from tests.callbacks.runs import REQUESTS, WATCHED, fit, watching

ONE = {
    "edit": 3,
    "case_id": 7,
    "prompt": "{} lies in",
    "subject": "Oslo",
    "target_new": "Peru",
    "target_true": "",
    "status": "applied",
}
TWO = ONE | {
    "case_id": [7, 8],
    "prompt": ["{} lies in", "{} sings"],
    "subject": ["Oslo", "Ann"],
    "target_new": ["Peru", "well"],
    "target_true": ["", "ill"],
}


def told(record, total=10, seconds=None, **fields):
    return line_of(record | fields, total, seconds).split("  ")


def test_line_has_number_fact_outcome_perplexity_and_time_left():
    scores = {"efficacy_exact_match": 1.0, "perplexity": 193.4567}
    line = ["edit 3/10", "Oslo → Peru", "stated", "perplexity 193.5", "0:01:05 left"]
    assert told(ONE, seconds=65.4, **scores) == line
    assert told(ONE, efficacy_exact_match=0.0)[2] == "not stated"
    assert told(ONE, perplexity=1e4, collapsed=True)[-1] == "perplexity 1e+04, collapsed"


def test_line_of_a_batch_counts_its_facts():
    assert told(TWO, efficacy_exact_match=0.5)[1:] == ["2 facts", "1 stated"]
    assert told(TWO, efficacy_exact_match=1.0)[1:] == ["2 facts", "stated"]
    assert told(TWO, efficacy_exact_match=0.0)[1:] == ["2 facts", "not stated"]


def test_line_of_a_refused_edit_has_its_reason():
    refused = {"status": "rolled_back", "reason": "perplexity 4e+03 > 970", "perplexity": 4e3}
    assert told(ONE, **refused)[2:] == ["rolled back: perplexity 4e+03 > 970"]


def test_line_shortens_a_long_subject_and_omits_what_is_unknown():
    line = told(ONE, math.inf, subject="a very long subject " * 5)
    assert line[0] == "edit 3"
    assert len(line[1]) == 48
    assert line[1].endswith("… → Peru")
    assert told(ONE, subject="", prompt="Oslo lies in")[1] == "Oslo lies in → Peru"


def test_requests_of_a_journal_line_are_those_of_its_edit():
    assert [request.text for request in requests_of(TWO)] == ["Oslo lies in", "Ann sings"]
    (request,) = requests_of(ONE)
    assert (request.case_id, request.target_new, request.target_true) == (7, "Peru", "")


def test_a_refused_fact_is_not_stated_and_an_unjudged_one_does_not_count():
    edits = [
        ONE | {"efficacy_exact_match": 1.0},
        ONE | {"efficacy_exact_match": 1.0, "status": "rolled_back"},
        TWO | {"efficacy_exact_match": 0.5},
        ONE,
    ]
    assert stated_at_edits(edits) == Stated(facts=4, stated=2)
    assert str(Stated(4, 2)) == "2/4"


def test_a_fact_is_stated_if_it_is_the_models_greedy_continuation(sequential):
    edits, editor = sequential.edits, sequential.editor
    texts = [text[:end].rstrip() for text in WATCHED for end in range(9, 40)]
    facts, said = [], []
    for number, text in enumerate(texts):
        tokens = editor.tokenizer(text)["input_ids"]
        greedy = int(editor.lm(torch.tensor([tokens])).logits[0, -1].argmax())
        target = editor.tokenizer.decode(greedy).strip()
        whole = editor.tokenizer(f"{text} {target}")["input_ids"]
        facts.append({"case_id": number, "prompt": text, "subject": "", "target_true": ""})
        facts[-1]["target_new"] = target or "x"
        said.append(target.isalpha() and whole == [*tokens, greedy])
    assert any(said)
    assert stated_now(editor, facts).stated >= sum(said)
    assert stated_now(editor, [*edits, *edits]) == stated_now(editor, edits)


def test_summary_counts_facts_on_the_final_model_and_those_of_a_sweep_at_their_edits(
    sequential, lm, tmp_path
):
    asked = stated_now(sequential.editor, sequential.edits)
    assert sequential.summary["stated"] == asked._asdict()
    sweep = fit(lm, tmp_path, [RestoreWeights(), *watching()])
    assert sweep.summary["stated"] == stated_at_edits(sweep.edits)._asdict()
    assert sweep.summary["stated"]["facts"] == 4


@pytest.mark.parametrize("seen", [True, False])
def test_every_edit_has_a_line_beside_the_bar_and_alone_in_a_log(
    lm, tmp_path, capsys, monkeypatch, seen
):
    logged = []
    monkeypatch.setattr("sys.stdout.isatty", lambda: seen)
    monkeypatch.setattr("callbacks.keeping.progress.rank_zero_info", logged.append)
    callbacks = [*watching(), EditBar()]
    fit(lm, tmp_path, callbacks, REQUESTS[:2], enable_progress_bar=True)
    out = capsys.readouterr().out
    lines = out.replace("\r", "\n").splitlines() if seen else logged
    edits = [line for line in lines if line.startswith("edit ")]
    assert [line.split("  ")[0] for line in edits] == ["edit 1/2", "edit 2/2"]
    assert ("stated=" in out) == seen
    assert ("Editing" in out) == seen
