import json

import pytest
import torch

from callbacks.studies.risk import RiskTable
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, WEIGHT, data_of, trainer_in


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
    request = {"case_id", "subject", "prompt"}
    figures = {"denominator", "denominator_relative", "key_cosine", "subject_position"}
    assert all(row.keys() == request | figures for row in rows)


def test_a_foreseen_denominator_is_the_one_of_the_edit(foreseen, sequential):
    (row,) = [row for row in foreseen[1] if row["case_id"] == 10]
    first = sequential.edits[0]
    assert row["denominator"] == pytest.approx(first["denominator"], rel=1e-5)
    assert row["denominator_relative"] == pytest.approx(first["denominator_relative"], rel=1e-5)
    assert row["key_cosine"] == pytest.approx(first["key_cosine"], rel=1e-5)


def test_predicting_leaves_the_model_as_it_is(foreseen):
    editor = foreseen[0]
    assert torch.equal(editor.lm.get_parameter(WEIGHT), editor.original[WEIGHT])


def test_a_batch_method_ranks_by_the_cosine_of_its_keys(lm, tmp_path):
    options = {name: value for name, value in METHOD.items() if name != "layer"}
    trainer_in(tmp_path, [RiskTable()]).predict(MEMIT(lm=lm, layers=[0], **options), data_of())
    rows = [json.loads(line) for line in (tmp_path / "risk.jsonl").read_text().splitlines()]
    cosines = [row["key_cosine"] for row in rows]
    assert cosines == sorted(cosines)
    assert "denominator" not in rows[0]


def test_a_method_without_keys_says_that_it_can_foretell_nothing(lm, tmp_path):
    with pytest.raises(
        ValueError, match="FineTuning has no keys to estimate the risk of an edit from"
    ):
        trainer_in(tmp_path, [RiskTable()]).predict(FineTuning([0], lm=lm), data_of())
