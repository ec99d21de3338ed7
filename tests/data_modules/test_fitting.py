from pathlib import Path

import pytest

from data_modules.fitting import fitting, is_long, say_cut, scorable
from data_modules.records import EditRequest, Probe, TaskItem
from data_modules.text.corpora import texts
from lightning_modules.language_model.reach import Reach
from tests.tiny import tiny_tokenizer

CASES = Path(__file__).parents[3] / "shared" / "cases"
REACH = Reach("m", "ROME", True, 24, 4, tiny_tokenizer())
SOUND = EditRequest(3, "{} is in", "Oslo", "Peru", "Norway")
LONG = "river " * 30


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            SOUND._replace(prompt=LONG + "{} is in"),
            r"the prompt of case 3 has \d+ tokens .*, and 4",
        ),
        (SOUND._replace(target_new=LONG), "the prompt of case 3"),
        (SOUND._replace(paraphrases=("a", LONG)), "paraphrase 2 of case 3 .*but 'm' reads 24"),
        (SOUND._replace(neighborhood=(Probe(LONG, "x"),)), "neighbor 1 of case 3"),
        (SOUND._replace(portability=(Probe("a", "x", (LONG,)),)), "question 1 of case 3"),
        (SOUND._replace(prompt="Oslo is in", subject=""), "ROME edits .* case 3 .*names none"),
    ],
)
def test_what_the_model_cannot_take_is_refused_or_skipped(
    request_: EditRequest, message: str
) -> None:
    with pytest.raises(ValueError, match=f"1 of 2 requests cannot be edited; .*{message}"):
        fitting([SOUND, request_], REACH)
    with pytest.warns(UserWarning, match=f"1 of 2 requests .*{message}"):
        assert fitting([SOUND, request_], REACH, skip_faulty=True) == [SOUND]


def test_nothing_is_left() -> None:
    long = SOUND._replace(target_new=LONG)
    with (
        pytest.warns(UserWarning, match="1 of 1 requests"),
        pytest.raises(ValueError, match="none is left"),
    ):
        fitting([long], REACH, skip_faulty=True)


def test_a_method_without_subject_and_a_model_without_limit_take_all() -> None:
    free = REACH._replace(needs_subject=False, positions=None)
    odd = [EditRequest(1, "Oslo is in", "", "Peru"), SOUND._replace(target_new=LONG)]
    assert fitting(odd, free) == odd


def test_texts_that_cannot_be_scored_are_left_out_and_the_limit_counts_the_others() -> None:
    texts = iter(["", "a", "The river is long.", "x", "The town.", "The city."])
    with pytest.warns(UserWarning, match="left out: 1 null or blank, 2 of a single token"):
        assert scorable(texts, 2, "w", REACH) == ["The river is long.", "The town."]
    assert next(texts) == "The city."


def test_long_texts_and_items_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_long(LONG, REACH)
    assert not is_long("river", REACH)
    told: list[str] = []
    monkeypatch.setattr("data_modules.fitting.rank_zero_info", told.append)
    scorable([LONG], None, "w", REACH)
    say_cut({"piqa": [TaskItem("piqa", 6, LONG, (" a",))]}, REACH)
    assert "1 watched texts are longer than the 24 positions" in told[0]
    assert "1 items of piqa are longer" in told[1]


@pytest.mark.skipif(not CASES.exists(), reason=f"no small inputs at {CASES}")
def test_lines_of_the_small_inputs_are_texts_and_the_limit_counts_them() -> None:
    three, many = (str(CASES / "15-my-sentences" / f"{name}.txt") for name in ("three", "many"))
    assert len(scorable(texts(three), None, three, REACH)) == 3
    assert len(scorable(texts(many), None, many, REACH)) == 300
    assert len(scorable(texts(many), 40, many, REACH)) == 40


@pytest.mark.skipif(not CASES.exists(), reason=f"no small inputs at {CASES}")
def test_the_small_inputs_that_cannot_be_scored_are_counted_cut_or_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = str(CASES / "16-one-token-text" / "w.jsonl")
    with pytest.warns(UserWarning, match=f"{one}: .* left out: 0 null or blank, 1 of a single"):
        assert len(scorable(texts(one), None, one, REACH)) == 1
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 but Latin-1 .*line 1"):
        list(texts(str(CASES / "18-corpus-files")))
    told: list[str] = []
    monkeypatch.setattr("data_modules.fitting.rank_zero_info", told.append)
    assert len(scorable(texts(str(CASES / "19-too-long" / "watch.jsonl")), None, "w", REACH)) > 0
    assert "1 watched texts are longer than the 24 positions" in told[0]
