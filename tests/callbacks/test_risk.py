import json

import pytest
import torch

from callbacks.risk import RiskTable
from lightning_modules.rome import ROME

from .runs import METHOD, REQUESTS, WEIGHT, data_of, trainer_in


@pytest.fixture(scope="module")
def foreseen(lm, tmp_path_factory):
    """The editor after ``predict``, and the rows that it wrote."""
    folder = tmp_path_factory.mktemp("risk")
    editor = ROME(lm=lm, **METHOD)
    trainer_in(folder, [RiskTable()]).predict(editor, data_of())
    return editor, [json.loads(line) for line in (folder / "risk.jsonl").read_text().splitlines()]


def test_table_has_a_row_per_request_the_riskiest_first(foreseen):
    rows = foreseen[1]
    assert {row["case_id"] for row in rows} == {request.case_id for request in REQUESTS}
    denominators = [row["denominator"] for row in rows]
    assert denominators == sorted(denominators)
    assert all(
        row.keys()
        == {"case_id", "subject", "prompt", "denominator", "key_cosine", "subject_position"}
        for row in rows
    )


def test_a_foreseen_denominator_is_the_one_of_the_edit(foreseen, sequential):
    (row,) = [row for row in foreseen[1] if row["case_id"] == 10]
    first = sequential.edits[0]
    assert row["denominator"] == pytest.approx(first["denominator"], rel=1e-5)
    assert row["key_cosine"] == pytest.approx(first["key_cosine"], rel=1e-5)


def test_predicting_leaves_the_model_as_it_is(foreseen):
    editor = foreseen[0]
    assert torch.equal(editor.lm.get_parameter(WEIGHT), editor.original[WEIGHT])
