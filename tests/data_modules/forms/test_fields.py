import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_modules.forms.fields import FaultyRecordError, Record, subject_span
from data_modules.records import EditRequest, Probe

subjects = st.text(min_size=1).map(str.strip).filter(bool)


def record(**fields: object) -> Record:
    return Record("cases.json", 7, {"case_id": 42, **fields})


@given(before=st.text(), subject=subjects, after=st.text())
@example("", "C++ (lang.)*", " is")
@example("The ", "Łódź", " and Łódź, in")
@example("US in the USA, ", "US", "")
@example("{", "}", "}")
def test_filling_the_slot_restores_the_prompt(before: str, subject: str, after: str) -> None:
    prompt = f"{before} {subject} {after}".rstrip()
    start, end = subject_span(prompt, subject)
    template = prompt[:start] + "{}" + prompt[end:]
    assert prompt[start:end] == subject
    if template.count("{}") == 1:
        slot, name = record(prompt=prompt, subject=subject).slotted("prompt", "subject")
        assert EditRequest(0, slot, name, "x").text == prompt


@given(before=st.text(), subject=subjects, after=st.text())
def test_span_is_the_last_whole_word_occurrence(before: str, subject: str, after: str) -> None:
    prompt = f"{before} {subject} {after}"
    start, _ = subject_span(prompt, subject)

    def whole(place: int) -> bool:
        end = place + len(subject)
        sides = prompt[place - 1 : place] + prompt[end : end + 1]
        return prompt.startswith(subject, place) and not any(
            side.isalnum() or side == "_" for side in sides
        )

    assert start == max(place for place in range(len(prompt)) if whole(place))


@given(prompt=st.text(), subject=subjects)
def test_a_subject_that_occurs_is_found(prompt: str, subject: str) -> None:
    if subject in prompt:
        assert subject_span(prompt, subject) is not None


@pytest.mark.parametrize(
    ("prompt", "subject", "found_at"),
    [
        ("Paris, the city of Paris, is in", "Paris", 19),
        ("US forces left the USA", "US", 0),
        ("aa aa aa", "aa aa", 3),
        ("who sang for the beatles", "The Beatles", 13),
        ("Us and US", "US", 7),
        ("a Thomas Hardynovel", "Thomas Hardy", 2),
        ("東京は日本の首都", "日本", 3),
    ],
)
def test_last_whole_word_wins(prompt: str, subject: str, found_at: int) -> None:
    assert subject_span(prompt, subject) == (found_at, found_at + len(subject))


def test_an_absent_subject_has_no_span() -> None:
    assert subject_span("Rome is in", "Paris") is None


def test_subject_is_spelled_as_in_the_prompt() -> None:
    slotted = record(p="who sang for the beatles ", s=" The Beatles ").slotted("p", "s")
    assert slotted == ("who sang for {}", "the beatles")


def test_other_braces_stay() -> None:
    slot, name = record(p="In {x: 1}, } { Rome is", s="Rome").slotted("p", "s")
    assert EditRequest(0, slot, name, "x").text == "In {x: 1}, } { Rome is"


@pytest.mark.parametrize("prompt", ["{} Rome is {}", "a {} by Rome"])
def test_a_second_slot_is_refused(prompt: str) -> None:
    with pytest.raises(FaultyRecordError, match=r"field 'p' must have one \{\}"):
        record(p=prompt, s="Rome").slotted("p", "s")


@pytest.mark.parametrize("prompt", ["Rome is in", "{} and {}"])
def test_a_template_has_one_slot(prompt: str) -> None:
    with pytest.raises(FaultyRecordError, match=r"must have one \{\}"):
        record(p=prompt).template("p")


@pytest.mark.parametrize(
    ("value", "problem"),
    [(None, "is missing"), ("  ", "is blank"), (5, "must be text, got 5")],
)
def test_a_fault_names_source_record_case_field_and_remedy(value: object, problem: str) -> None:
    place = r"^cases.json: record 7 \(case 42\): field 'a.b' "
    with pytest.raises(FaultyRecordError, match=place + problem + "; correct the record"):
        record(a={"b": value}).text("a.b")


def test_a_default_stands_in_for_a_missing_or_empty_text() -> None:
    assert record(a="").text("a", default="-") == record().text("a", default="-") == "-"


def test_texts_may_be_one_many_or_none() -> None:
    texts = record(one=" a ", many=["b ", "c"])
    assert texts.texts("one") == (" a",)
    assert texts.texts("many") == ("b", "c")
    assert texts.texts("none") == ()


def test_case_id_falls_back_to_the_number() -> None:
    assert record().case_id == 42
    assert Record("x", 7, {"id": 3}).case_id == 3
    assert Record("x", 7, {}).case_id == 7
    with pytest.raises(FaultyRecordError, match="'case_id' must be a whole number, got 'Q1'"):
        record(case_id="Q1").case_id  # noqa: B018


def test_probes_pair_prompts_with_answers() -> None:
    both = record(p=["a ", "b"], a=[" x ", "y"])
    assert both.probes("p", "a") == (Probe("a", "x"), Probe("b", "y"))
    assert both.probes("p", "none", "z") == (Probe("a", "z"), Probe("b", "z"))
    with pytest.raises(FaultyRecordError, match="an answer for each of the 2 prompts, got 0"):
        both.probes("p", "none")


def test_line_breaks_at_a_prompts_end_stay_and_blanks_do_not() -> None:
    fields = {"prompt": "user\n{} is\nassistant\n", "more": ["Rome is \n", "Rome is  "]}
    record = Record("x", 0, fields)
    assert record.template("prompt") == fields["prompt"]
    assert record.texts("more") == ("Rome is \n", "Rome is")
