import csv
import json

import pytest
from transformers import GPT2TokenizerFast

from data_modules.forms.readers import read_requests, read_union
from data_modules.hard_cf import (
    GPT_J_CASES,
    MODELS,
    HardCFDataModule,
    begins_as_one_token,
    ends_in_first_full_stop,
)
from data_modules.records import EditRequest
from tests.tiny import metaspace_tokenizer, tiny_tokenizer

CASES = [
    EditRequest(173, "{} lies in", "Q", "Peru", "Italy"),
    EditRequest(1, "{} lies in", "Duran", "Peru", "Italy"),
    EditRequest(2, "{} sang", "Sammy Davis.", "Peru", "jazz"),
    EditRequest(3, "In {} is", "Q", "Peru", "France"),
]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "counterfact.json").write_text(json.dumps([c.as_counterfact() for c in CASES]))
    return str(tmp_path / "counterfact.json")


@pytest.fixture
def tokenizers(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return dict.fromkeys(("gpt2-xl", "llama2-7b"), str(tmp_path / "tokenizer"))


def chosen(**options):
    data = HardCFDataModule(**options)
    data.setup("fit")
    return data, [request.case_id for request in data.requests]


@pytest.fixture(scope="module")
def counterfact(shared_data):
    """Those of CounterFact's cases that are stored, 20,000 of 21,919, read once."""
    files = [shared_data / f"counterfact/counterfact-{part}.json" for part in ("edit", "train")]
    requests = [request for file in files for request in read_requests(str(file))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "data_modules.edit_requests.read_union",
            lambda path, skip: requests if path == "counterfact" else read_union(path, skip),
        )
        yield requests


@pytest.fixture(scope="module")
def gpt2(shared_data, tmp_path_factory):
    folder = shared_data / "tokenizers/gpt2"
    tokenizer = GPT2TokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    saved = tmp_path_factory.mktemp("gpt2")
    tokenizer.save_pretrained(saved)
    return str(saved)


def listed(shared_data, name):
    with (shared_data / "hard_cases" / name).open() as file:
        return {int(row["case_id"]): row for row in csv.DictReader(file)}


def test_the_ids_are_those_of_the_85_cases_that_collapse_gpt_j(shared_data, counterfact):
    rows = listed(shared_data, "hardcf_gptj_85.csv")
    assert set(rows) == GPT_J_CASES
    data, ids = chosen(models=["gpt-j-6b"], path="counterfact")
    assert set(ids) == set(rows) & {request.case_id for request in counterfact}
    assert {r.case_id: r.text for r in data.requests} == {n: rows[n]["prompt"] for n in ids}
    assert data.chosen_by == {"gpt-j-6b": "80 of 85, by their ids"}


def test_gpt2s_rule_finds_exactly_the_80_single_tokens_that_begin_a_prompt(
    shared_data, counterfact, gpt2
):
    rows = listed(shared_data, "counterfact_single_token_first_80.csv")
    options = {"models": ["gpt2-xl"], "tokenizers": {"gpt2-xl": gpt2}}
    data, ids = chosen(path="counterfact", **options)
    assert set(ids) == set(rows) & {request.case_id for request in counterfact}
    assert len(ids) == 75
    assert data.chosen_by["gpt2-xl"].startswith("75, by the rule that the subject is a single")


def test_the_union_of_models_has_each_case_once(counterfact, gpt2):
    models = {"models": ["gpt2-xl", "gpt-j-6b"], "tokenizers": {"gpt2-xl": gpt2}}
    _, ids = chosen(path="counterfact", **models)
    assert len(ids) == len(set(ids)) == 81
    data, normal = chosen(path="counterfact", sample="normal", seed=0, **models)
    assert len(set(normal)) == 81
    assert not set(normal) & set(ids)
    assert not any(
        " " not in request.subject for request in data.requests if "{}" in request.prompt[:2]
    )


def test_a_single_token_must_be_the_whole_subject_and_come_first():
    tokenizer = tiny_tokenizer()
    found = [begins_as_one_token(tokenizer, request) for request in CASES]
    assert found == [True, False, False, False]


@pytest.mark.parametrize(
    ("prompt", "subject", "hard"),
    [
        ("{} sang", "Sammy Davis Jr.", True),
        ("Here is {} who", "Sammy Davis Jr.", True),
        ("{}, who sang", "Sammy Davis Jr.", False),
        ("Mr. Hall met {} and", "Sammy Davis Jr.", False),
        ("{} sang", "J. S. Bach", False),
        ("{} sang", "E. Power Biggs Jr.", False),
    ],
)
def test_llamas_rule_asks_for_the_first_full_stop_that_is_a_token(prompt, subject, hard):
    tokenizer = metaspace_tokenizer([chr(n) for n in range(33, 127)] + [".,", "▁"], [(".", ",")])
    request = EditRequest(0, prompt, subject, "x")
    assert ends_in_first_full_stop(tokenizer, request) == hard


def test_rule_and_ids_are_united(path, tokenizers):
    data, ids = chosen(path=path, tokenizers=tokenizers)
    assert ids == [173, 2]
    assert [how.split(",")[0] for how in data.chosen_by.values()] == ["1", "1 of 85", "1"]
    assert tuple(data.chosen_by) == MODELS


def test_numbers_that_are_not_counterfacts_are_refused(tmp_path):
    strange = EditRequest(173, "In {} is", "Rome", "Peru", "Italy").as_counterfact()
    (tmp_path / "a.json").write_text(json.dumps([strange]))
    with pytest.raises(ValueError, match="case 173 is 'In Rome is', unlike CounterFact's of that"):
        chosen(path=str(tmp_path / "a.json"), models=["gpt-j-6b"])


def test_a_tokenizer_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer 'no/where': .* --data.tokenizers"):
        chosen(path=path, models=["gpt2-xl"], tokenizers={"gpt2-xl": "no/where"})


@pytest.mark.parametrize(
    ("models", "named"), [(["gpt-5"], r"\['gpt-5'\]"), ([], "none")], ids=["unknown", "none"]
)
def test_a_model_that_hardcf_does_not_have_is_refused(path, models, named):
    with pytest.raises(ValueError, match=f"models must be some of gpt2-xl, .* got {named}"):
        HardCFDataModule(models=models, path=path)


def test_counterfact_has_to_be_named():
    with pytest.raises(ValueError, match=r"name its files or hub dataset with --data.path"):
        HardCFDataModule()
