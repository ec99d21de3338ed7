import pytest

from data_modules.forms.task_forms import TASKS, TaskRow, flat
from data_modules.records import TaskItem

RECORDS = {
    "lambada": {"text": "In my palm is a clear stone, and inside it is a small ivory statuette"},
    "hellaswag": {
        "activity_label": "Fixing a tap",
        "ctx_a": "[header] How to fix a tap [title] Close it.",
        "ctx_b": "then Anna",
        "endings": ["sings.", "[step] turns  the screw [title] It holds.", "runs.", "reads."],
        "label": "1",
    },
    "piqa": {"goal": "Boil an egg", "sol1": "Use water.", "sol2": "Use sand.", "label": 0},
    "mmlu": {
        "question": " How many planets are there? ",
        "subject": "high_school_physics",
        "choices": ["seven", "eight", "nine", "ten"],
        "answer": 1,
    },
    "nq_open": {"question": "who wrote hamlet", "answer": ["Shakespeare", "W. Shakespeare"]},
    "squad_v2": {
        "title": "Normans",
        "context": "Rollo led them.",
        "question": "Who led them?",
        "answers": {"text": ["Rollo"], "answer_start": [0]},
    },
}


def item(name, record):
    return TASKS[name].item(TaskRow("file.jsonl", "line 8", 7, record))


def test_lambada_asks_for_the_last_word():
    context = "In my palm is a clear stone, and inside it is a small ivory"
    assert item("lambada", RECORDS["lambada"]) == TaskItem("lambada", 7, context, (" statuette",))
    quoted = item("lambada", {"text": 'He said:\n"No, Anna"\n'})
    assert (quoted.context, quoted.choices) == ('He said:\n"No,', (' Anna"',))


def test_hellaswag_is_cleaned_of_wikihows_marks():
    assert item("hellaswag", RECORDS["hellaswag"]) == TaskItem(
        "hellaswag",
        7,
        "Fixing a tap: How to fix a tap. Close it. Then anna",
        (" sings.", "  turns the screw. It holds.", " runs.", " reads."),
        gold=1,
    )


def test_piqa_is_the_same_in_both_of_its_forms():
    other = {
        "query": "Question: Boil an egg\n",
        "choices": ["Use water.", "Use sand."],
        "gold": 0,
    }
    context = "Question: Boil an egg\nAnswer:"
    expected = TaskItem("piqa", 7, context, (" Use water.", " Use sand."), gold=0)
    assert item("piqa", RECORDS["piqa"]) == item("piqa", other) == expected


def test_mmlu_names_the_subject_and_asks_for_a_letter():
    assert item("mmlu", RECORDS["mmlu"]) == TaskItem(
        "mmlu",
        7,
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "How many planets are there?\nA. seven\nB. eight\nC. nine\nD. ten\nAnswer:",
        (" A", " B", " C", " D"),
        gold=1,
    )


def test_natural_questions_are_written_up_to_a_stop():
    assert item("nq_open", RECORDS["nq_open"]) == TaskItem(
        "nq_open",
        7,
        "Answer these questions:\n\nQ: who wrote hamlet?\nA:",
        answers=("Shakespeare", "W. Shakespeare"),
        until=("\n", ".", ","),
    )


def test_squad_is_the_same_flat_and_nested():
    question = {"id": "q5", "question": "Who led them?", "answers": [{"text": "Rollo"}]}
    other = {"id": "q6", "question": "Who cooked?", "answers": []}
    paragraph = {"context": "Rollo led them.", "qas": [question, other]}
    articles = [{"title": "Normans", "paragraphs": [paragraph]}]
    rows = list(flat(TaskRow("file.json", "line 1", 0, {"version": "v2.0", "data": articles})))
    assert [(row.place, row.number) for row in rows] == [("question q5", 0), ("question q6", 1)]
    nested, unanswerable = (TASKS["squad_v2"].item(row) for row in rows)
    assert nested == item("squad_v2", RECORDS["squad_v2"])._replace(number=0)
    assert nested == TaskItem(
        "squad_v2",
        0,
        "Title: Normans\n\nBackground: Rollo led them.\n\nQuestion: Who led them?\n\nAnswer:",
        answers=("Rollo",),
        until=("\n",),
    )
    assert unanswerable.answers == ()
    flat_one = RECORDS["squad_v2"] | {"answers": {"text": [], "answer_start": []}}
    assert item("squad_v2", flat_one).answers == ()


@pytest.mark.parametrize("name", RECORDS)
def test_each_field_that_is_missing_is_named_with_its_place(name):
    for field in RECORDS[name]:
        record = {k: v for k, v in RECORDS[name].items() if k != field}
        with pytest.raises(ValueError, match=rf"file.jsonl: line 8: field '{field}' is missing"):
            item(name, record)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("lambada", {"text": "statuette"}, "'text' must have two words at least"),
        ("lambada", {"text": " \n"}, "'text' must be text, got ' "),
        ("hellaswag", {"label": ""}, "'label' must be the number of a choice, 0 to 3: ''"),
        ("hellaswag", {"endings": ["one"]}, "'endings' must be a list of 2 texts or more"),
        ("hellaswag", {"ctx_b": None}, "'ctx_b' must be text, got None"),
        ("piqa", {"label": -1}, "'label' must be the number of a choice, 0 to 1: -1"),
        ("piqa", {"sol1": 3}, "'sol1' must be text, got 3"),
        ("mmlu", {"choices": ["a", "b", "c"]}, "'choices' must be a list of 4 texts or more"),
        ("mmlu", {"answer": 4}, "'answer' must be the number of a choice, 0 to 3: 4"),
        ("nq_open", {"answer": []}, "'answer' must be a list of 1 texts or more"),
        ("nq_open", {"answer": "Shakespeare"}, "'answer' must be a list"),
        ("squad_v2", {"answers": ["Rollo", None]}, "'answers' must be a list of 0 texts"),
        ("squad_v2", {"answers": {"answer_start": []}}, "'answers' must be a list of 0 texts"),
    ],
)
def test_a_field_of_another_kind_is_named(name, change, message):
    with pytest.raises(ValueError, match=f"line 8: field {message}"):
        item(name, RECORDS[name] | change)


def test_a_nested_file_of_another_build_is_named():
    for data in ("Normans", [3], [{"title": "x"}], [{"paragraphs": [{"qas": 3}]}]):
        with pytest.raises(ValueError, match=r"line 1: field '\w+' (is missing|must be a list of)"):
            list(flat(TaskRow("file.json", "line 1", 0, {"data": data})))
