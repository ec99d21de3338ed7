import json
from collections import Counter

import pytest

from data_modules.embedded import FOLDER, embedded_requests, embedded_sentences

TASKS = {
    "lambada": {"text"},
    "hellaswag": {
        *("ind", "activity_label", "ctx_a", "ctx_b", "ctx"),
        *("endings", "split", "label"),
    },
    "piqa": {"goal", "sol1", "sol2", "label"},
    "mmlu": {"question", "subject", "choices", "answer"},
    "nq_open": {"question", "answer"},
    "squad_v2": {"id", "title", "context", "question", "answers"},
}


def task(name: str) -> list[dict]:
    lines = (FOLDER / "tasks" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_requests_are_many_and_varied() -> None:
    requests = embedded_requests()
    assert len(requests) >= 600
    assert len({request.prompt for request in requests}) >= 20
    assert len({request.case_id for request in requests}) == len(requests)


def test_requests_with_a_one_word_subject_in_front_abound() -> None:
    short = [
        request
        for request in embedded_requests()
        if request.prompt.startswith("{}") and len(request.subject.split()) == 1
    ]
    assert len(short) >= 120


def test_every_request_is_complete() -> None:
    for request in embedded_requests():
        assert request.prompt.count("{}") == 1
        assert request.subject == request.subject.strip() != ""
        assert request.target_new == request.target_new.strip() != ""
        assert request.target_new != request.target_true != ""
        assert len(request.paraphrases) == 2
        assert all(request.subject in text for text in request.paraphrases)
        assert len(request.neighborhood) >= 5


def test_neighbors_never_mention_the_subject() -> None:
    mentions = [
        (request.subject, probe.prompt)
        for request in embedded_requests()
        for probe in request.neighborhood
        if request.subject in probe.prompt
    ]
    assert mentions == []


def test_requests_are_the_same_every_time() -> None:
    assert embedded_requests() == embedded_requests()


def test_sentences_are_distinct_texts() -> None:
    sentences = embedded_sentences()
    assert len(sentences) >= 100
    assert len(set(sentences)) == len(sentences)
    assert all(sentence.strip() for sentence in sentences)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_distinct_items_of_its_public_form(name: str) -> None:
    items = task(name)
    assert 100 <= len({json.dumps(item) for item in items}) == len(items) <= 200
    assert all(item.keys() == TASKS[name] for item in items)


def test_tasks_are_small() -> None:
    assert sum(file.stat().st_size for file in (FOLDER / "tasks").iterdir()) < 300_000


@pytest.mark.parametrize(
    ("name", "gold", "choices"),
    [
        ("hellaswag", "label", lambda item: item["endings"]),
        ("piqa", "label", lambda item: [item["sol1"], item["sol2"]]),
        ("mmlu", "answer", lambda item: item["choices"]),
    ],
)
def test_choices_differ_and_no_answer_is_right_much_too_often(name, gold, choices) -> None:
    items = task(name)
    counts = {len(set(choices(item))) for item in items}
    assert counts == {2 if name == "piqa" else 4}
    golds = Counter(item[gold] for item in items)
    assert golds.keys() == set(range(*counts))
    assert max(golds.values()) < 1.5 * len(items) / len(golds)


def test_contexts_leave_out_the_last_word_or_ending() -> None:
    assert all(len(item["text"].split(" ")) > 10 for item in task("lambada"))
    assert all(item["text"] == item["text"].strip() for item in task("lambada"))
    for item in task("hellaswag"):
        assert item["ctx"] == f"{item['ctx_a']} {item['ctx_b']}".strip()
        assert not item["ctx"].endswith(tuple(item["endings"]))


def test_answers_stand_where_squad_says_and_a_third_of_its_questions_have_none() -> None:
    items = task("squad_v2")
    for item in items:
        texts, starts = item["answers"]["text"], item["answers"]["answer_start"]
        assert len(texts) == len(starts) <= 1
        for text, start in zip(texts, starts, strict=True):
            assert item["context"][start:].startswith(text)
    unanswerable = sum(not item["answers"]["text"] for item in items)
    assert 0.2 < unanswerable / len(items) < 0.4
    assert len({item["id"] for item in items}) == len(items)


def test_open_questions_have_answers_and_no_question_mark() -> None:
    for item in task("nq_open"):
        assert item["question"] == item["question"].lower().rstrip("?").strip()
        assert item["answer"]
        assert all(answer == answer.strip() != "" for answer in item["answer"])


@pytest.mark.parametrize("name", ["lambada", "hellaswag", "piqa"])
def test_tasks_ask_no_subject_that_ordinary_runs_edit(name: str) -> None:
    edited = {request.subject for request in embedded_requests()[:250]}
    text = {"lambada": "text", "hellaswag": "ctx", "piqa": "goal"}[name]
    kept = [r for r in embedded_requests()[250:] if r.subject not in edited]
    prompts = {p for r in kept for p in (r.text, *r.paraphrases)}
    subjects = {request.subject for request in kept}
    for item in task(name):
        asked = prompts if name != "piqa" else subjects
        assert any(phrase in item[text] for phrase in asked)
