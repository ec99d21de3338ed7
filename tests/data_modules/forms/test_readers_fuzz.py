"""Whatever a file holds, a reader gives requests or one sentence that says what is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_modules.forms.fields import FaultyRecordError
from data_modules.forms.readers import read_requests
from data_modules.records import EditRequest, Frame, Probe

FUZZED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SOUND = {"case_id": 4, "prompt": "Oslo lies in", "subject": "Oslo", "target_new": "Peru"}
REWRITE = {"prompt": "{} lies in", "subject": "Oslo", "target_new": {"str": "Peru"}}
WRITTEN = [  # the same in each form
    SOUND,
    SOUND | {"prompt": "{} lies in"},
    {"src": "Oslo lies in", "subject": "Oslo", "alt": "Peru"},
    {"prompt": "Oslo lies in", "subject": "Oslo", "target": "Peru"},
    {"requested_rewrite": REWRITE | {"target_true": {"str": "Chile"}}},
    {"requested_rewrite": [REWRITE | {"target_true": "Chile"}] * 2},
]
FIELDS = (
    "case_id", "id", "prompt", "subject", "target_new", "target", "ground_truth", "rephrase_prompt",
    "locality_prompt", "locality_ground_truth", "src", "alt", "answers", "pred", "rephrase", "loc",
    "loc_ans", "locality", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts",
    "neighborhood_targets", "portability",
)  # fmt: skip
TEXTS = st.text(max_size=12) | st.sampled_from(["Oslo", "Oslo lies in", "{} lies in", "{}", " "])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["prompt", "subject", "target_new", "target_true", "str", "loc", "answer"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8)
WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8).filter(
    lambda text: "{" not in text and "}" not in text
)
PROBES = st.builds(
    lambda prompt, answers: Probe(prompt, answers[0], tuple(answers[1:])),
    WORDS,
    st.lists(WORDS, min_size=1, max_size=3, unique=True),
)


def read(path: Path, content: bytes, skip_faulty: bool = False) -> list[EditRequest]:
    path.write_bytes(content)
    return read_requests(str(path), skip_faulty)


def named_subjects(records: object) -> list[str]:
    """The subject of each record where its form has it, if that is text and not blank."""
    found = []
    for record in records if isinstance(records, list) else [records]:
        if isinstance(record, dict):
            rewrite = record.get("requested_rewrite")
            held = (
                [record] if rewrite is None else rewrite if isinstance(rewrite, list) else [rewrite]
            )
            found += [part.get("subject") for part in held if isinstance(part, dict)]
    return [text.strip() for text in found if isinstance(text, str) and text.strip()]


def check(requests: list[EditRequest], records: object = None) -> None:
    named = named_subjects(records)
    assert sum(bool(request.subject) for request in requests) >= len(named)
    for request in requests:
        assert isinstance(request.case_id, int)
        assert request.prompt.count("{}") == bool(request.subject)
        assert request.subject == request.subject.strip()
        assert request.target_new == request.target_new.strip() != ""
        assert all(isinstance(text, str) for text in (request.target_true, *request.paraphrases))


def refusal(path: Path, content: bytes) -> str:
    """What is said against a file; its name if it is read."""
    try:
        requests = read(path, content)
    except ValueError as error:
        return str(error)
    try:
        records = json.loads(content)
    except ValueError:
        records = None
    check(requests, records)
    return path.name


@FUZZED
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_by_one_sentence(tmp_path: Path, content: bytes) -> None:
    assert "a.json" in refusal(tmp_path / "a.json", content)


@FUZZED
@given(st.lists(RECORDS | VALUES, max_size=4))
def test_any_json_is_read_or_refused_by_one_sentence(tmp_path: Path, records: list) -> None:
    assert "a.json" in refusal(tmp_path / "a.json", json.dumps(records).encode())


@pytest.mark.filterwarnings("ignore:.* left")
@FUZZED
@given(st.lists(RECORDS, max_size=3), st.sampled_from(WRITTEN))
def test_a_subject_that_a_record_names_is_never_lost(
    tmp_path: Path, records: list[dict], sound: dict
) -> None:
    content = json.dumps([sound, *(record | sound for record in records)]).encode()
    assert "a.json" in refusal(tmp_path / "a.json", content)


@FUZZED
@given(RECORDS, st.integers(0, 2))
def test_a_faulty_record_amid_sound_ones_is_named_and_skipped_only_if_asked(
    tmp_path: Path, record: dict, place: int
) -> None:
    records = [SOUND, SOUND]
    records.insert(place, record | {"target_new": None, "subject": 3, "prompt": "Oslo", "src": 1})
    content = json.dumps(records).encode()
    with pytest.raises(FaultyRecordError, match=rf"a.json: record {place} \(case .*skip_faulty"):
        read(tmp_path / "a.json", content)
    with pytest.warns(UserWarning, match="1 faulty records are left out; the first: .*a.json"):
        kept = read(tmp_path / "a.json", content, skip_faulty=True)
    assert [request.case_id for request in kept] == [4, 4]


@FUZZED
@given(
    st.builds(
        EditRequest,
        case_id=st.integers(0, 10**9),
        prompt=st.builds("{}{{}} {}".format, st.just("") | WORDS.map(lambda w: w + " "), WORDS),
        subject=WORDS,
        target_new=WORDS,
        target_true=st.just("") | WORDS,
        paraphrases=st.lists(WORDS, max_size=2).map(tuple),
        neighborhood=st.lists(PROBES, max_size=2).map(tuple),
        portability=st.lists(PROBES, max_size=2).map(tuple),
        attributes=st.lists(WORDS, max_size=2).map(tuple),
        generation=st.lists(WORDS, max_size=2).map(tuple),
        relation_id=st.sampled_from(["", "P17"]),
        target_id=st.sampled_from(["", "Q419"]),
        joined=st.booleans(),
        frame=st.just(Frame()),
    )
)
def test_a_request_written_in_counterfacts_form_is_read_as_it_was(
    tmp_path: Path, request_: EditRequest
) -> None:
    written = json.dumps([request_.as_counterfact()]).encode()
    assert read(tmp_path / "a.json", written) == [request_]
