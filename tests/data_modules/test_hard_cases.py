import json

import pytest

from data_modules.embedded import embedded_hard_cases, embedded_requests
from data_modules.hard_cases import HardCasesDataModule, of_hard_kind
from data_modules.records import EditRequest


@pytest.fixture
def files(tmp_path):
    """A dataset of which two cases are hard, and what two sweeps over it have found."""
    cases = [
        EditRequest(0, "{} lies in", "Oslo", "Peru", "Norway"),
        EditRequest(1, "{} lies in", "New York", "Peru", "Texas"),
        EditRequest(2, "{} lies in", "Rome", "Peru", "Italy"),
        EditRequest(3, "In {} is", "Paris", "Peru", "France"),
        EditRequest(4, "{} sang", "Sammy Davis Jr.", "Peru", "jazz"),
        EditRequest(5, "The Nile flows through {} and", "Egypt", "Chile", "Sudan"),
        EditRequest(6, "{} lies in", "Bonn", "Peru", "Germany"),
        EditRequest(7, "{} lies in", "Los Angeles", "Peru", "Nevada"),
    ]

    def write(name, chosen):
        records = [cases[n].as_counterfact() | {"perplexity": 1e4} for n in chosen]
        (tmp_path / name).write_text(json.dumps(records))
        return str(tmp_path / name)

    return {
        "all": write("all.json", range(8)),
        "a": write("a.json", [2, 6]),
        "b": write("b.json", [2, 0]),
    }


def ids(files, hard=("a",), **options):
    data = HardCasesDataModule([files[name] for name in hard], path=files["all"], **options)
    data.setup("fit")
    return [request.case_id for request in data.requests]


def test_hard_requests_are_those_that_a_sweep_has_found(files):
    assert ids(files) == [2, 6]
    assert ids(files, limit=1) == [2]


def test_hard_cases_of_several_sweeps_are_united(files):
    assert ids(files, hard=("a", "b")) == [0, 2, 6]


def test_there_are_as_many_normal_requests_as_hard_ones(files):
    assert ids(files, sample="normal") == [1, 3]
    assert ids(files, sample="normal", hard=("a", "b")) == [1, 3, 5]
    assert ids(files, sample="normal", limit=1) == [1]


def test_the_number_of_normal_requests_can_be_given(files):
    assert ids(files, sample="normal", normal_cases=4) == [1, 3, 5, 7]
    assert ids(files, sample="both", normal_cases=3) == [2, 6, 1, 3, 5]
    assert ids(files, sample="both") == [2, 6, 1, 3]
    with pytest.raises(ValueError, match=r"are hard and 4 normal, but 5 normal ones are needed"):
        ids(files, sample="normal", normal_cases=5)
    with pytest.raises(ValueError, match="normal_cases must be positive, got 0"):
        ids(files, normal_cases=0)


def test_a_seed_draws_both_samples(files):
    drawn = {tuple(ids(files, sample="normal", seed=seed)) for seed in range(9)}
    assert len(drawn) > 3
    assert set().union(*drawn) == {1, 3, 5, 7}
    assert ids(files, sample="normal", seed=3) == ids(files, sample="normal", seed=3)
    assert {tuple(ids(files, seed=seed)) for seed in range(9)} == {(2, 6), (6, 2)}


def test_it_is_told_how_the_hard_cases_were_found(files, caplog):
    data = HardCasesDataModule(files["a"], path=files["all"])
    data.setup("fit")
    (how,) = data.chosen_by.values()
    assert how == "2 of 2, by what single edits did"


def test_a_selection_that_is_left_empty_is_refused(files):
    with pytest.raises(ValueError, match="0 of its requests are hard and 4 normal, but hard ones"):
        ids(files, case_ids=[1, 3, 4, 5, 0, 7])
    with pytest.raises(ValueError, match="1 of its requests are hard and 0 normal, but normal"):
        ids(files, case_ids=[2, 4], sample="normal")


def test_hard_cases_of_another_dataset_are_asked_for(files):
    with pytest.raises(
        ValueError, match=r"the embedded hard cases are not from .* name with --data.ha"
    ):
        HardCasesDataModule(path=files["all"])


def test_kinds_are_told_by_their_words():
    kinds = [
        EditRequest(0, prompt, subject, "x")
        for prompt, subject in [
            ("{} is", "Q"),
            ("{} is", "A b"),
            ("In {} is", "Q"),
            ("{}", "A Co."),
        ]
    ]
    assert [of_hard_kind(request) for request in kinds] == [True, False, False, True]


def test_the_embedded_hard_cases_begin_their_prompts():
    hard = embedded_hard_cases()
    assert len(hard) == 30
    assert all(of_hard_kind(request) for request in hard)
    data = HardCasesDataModule(seed=0, sample="normal")
    data.setup("fit")
    assert len(set(data.requests)) == len(hard)
    assert set(data.requests) <= set(embedded_requests()) - set(hard)
