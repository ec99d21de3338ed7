import json

import pytest

from data_modules.benchmark import BenchmarkDataModule
from data_modules.meta_training import held_out


def drawn(**options):
    data = BenchmarkDataModule(**options)
    data.setup("fit")
    return data


def test_the_parts_share_no_subject_and_leave_none_out():
    report, tuning = (drawn(part=part).requests for part in ("report", "tuning"))
    assert all(map(held_out, report))
    assert not any(map(held_out, tuning))
    assert not {r.subject for r in report} & {r.subject for r in tuning}
    assert len(report) + len(tuning) == 1053


def test_the_seed_draws_and_orders_and_the_limit_counts_the_part():
    one, other, again = (drawn(seed=seed, limit=20).requests for seed in (0, 1, 0))
    assert one == again
    assert len(one) == len(other) == 20
    assert {r.case_id for r in one} != {r.case_id for r in other}
    assert drawn(seed=0, limit=30).requests[:20] == one


def test_what_follows_from_a_request_is_told():
    data = drawn(limit=5)
    kinds = {told.kind for request in data.requests for told in data.consequences(request)}
    assert {"negation", "reversal"} <= kinds


def test_a_part_without_requests_is_refused(tmp_path):
    file = tmp_path / "one.json"
    request = next(r for r in drawn(part="tuning").requests)
    file.write_text(json.dumps([request.as_counterfact()]))
    with pytest.raises(ValueError, match="none of the 1 requests belongs to the part 'report'"):
        drawn(path=str(file))
