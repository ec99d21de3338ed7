import pytest

from data_modules.forms.found_subjects import capitalised_span, with_subjects
from data_modules.records import EditRequest


def request(prompt: str, subject: str = "") -> EditRequest:
    return EditRequest(3, prompt, subject, "Peru")


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The official language of Mexico is", "Mexico"),
        ("The Statue of Liberty is located in the city of", "The Statue of Liberty"),
        ("The headquarters of Goldman Sachs is in the city of", "Goldman Sachs"),
        ("Nelson Mandela was born in the country of", "Nelson Mandela"),
        ("What is the capital of France?", "France"),
        ("Who wrote War and Peace?", "War and Peace"),
        ("Is Paris in France?", "France"),
        ("In which city is the Louvre?", "Louvre"),
        ("Where was Ludwig van Beethoven born?", "Ludwig van Beethoven"),
        ("In 1969, Apollo 11 landed on", "Apollo 11"),
        ("The iPhone was made by", "The iPhone"),
        ("Water boils at", "Water"),
        ("Scientists from Chad discovered", "Chad"),
        ("Paris, Rome and New York are", "Rome and New York"),
        ("The novel “The Old Man and the Sea” is by", "The Old Man and the Sea"),
    ],
)
def test_the_longest_capitalised_span_is_the_subject(prompt: str, subject: str) -> None:
    start, end = capitalised_span(prompt)
    assert prompt[start:end] == subject


@pytest.mark.parametrize(
    "prompt", ["The telephone was invented by", "the capital of oslo is", "Who was the 2 of", "?"]
)
def test_a_prompt_without_a_name_has_no_subject(prompt: str) -> None:
    assert capitalised_span(prompt) is None


def test_the_run_says_which_subjects_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("data_modules.forms.found_subjects.rank_zero_info", told.append)
    named, unnamed = request("{} lies in", "Oslo"), request("The mayor of Oslo lives in")
    lost = request("the sea lies in")
    assert with_subjects([named, unnamed, lost]) == [
        named,
        unnamed._replace(prompt="The mayor of {} lives in", subject="Oslo"),
        lost,
    ]
    assert told == ["Subjects taken from the prompts: 'Oslo' ('The mayor of Oslo lives in')"]
    with_subjects([named])
    with_subjects([unnamed] * 12)
    assert len(told) == 2
    assert told[1].endswith(" and 2 more")


def test_given_subjects_come_before_capitals_and_may_be_in_a_file(tmp_path) -> None:
    prompts = [request("the old town of Oslo lies in"), request("Bergen lies in")]
    found = with_subjects(prompts, ["town", "old town", "gen"])
    assert [r.subject for r in found] == ["old town", ""]
    assert found[0].prompt == "the {} of Oslo lies in"
    (tmp_path / "names.txt").write_text("town\n\n Bergen \n")
    found = with_subjects(prompts, str(tmp_path / "names.txt"))
    assert [r.subject for r in found] == ["town", "Bergen"]
    assert [r.text for r in found] == [r.text for r in prompts]
