import json

import pytest

from data_modules.embedded import FOLDER
from data_modules.forms.tasks import TaskOptions, read_tasks
from data_modules.records import TaskItem
from lightning_modules.language_model.answering import choose, continuation_span, write_answers
from lightning_modules.language_model.loading import load
from lightning_modules.language_model.scoring import score
from tests.harness import harness_model, judged_by_harness, write_lines
from tests.tiny import tiny_metaspace_tokenizer, tiny_tokenizer

LONG = "The old bridge across the river was built of stone. " * 12
RECORDS = {
    "lambada": [
        {"text": "Mary went to Paris, and John went to Rome"},
        {"text": '"Who are you?"\n\n"I am Peter," said the tall poet of\nVienna'},
        {"text": 'He asked her twice.\n "No'},
        {"text": f"{LONG}He lived in Italy"},
    ],
    "hellaswag": [
        {
            "activity_label": "Playing chess",
            "ctx_a": "Two queens meet [substeps] on a board.",
            "ctx_b": "the King",
            "endings": ["is lost.", "plays jazz  [title] in Paris.", "[step] opens a book.", "is"],
            "label": "0",
        },
        {
            "activity_label": "Rowing",
            "ctx_a": "[header] How to row [title] Take the boat ",
            "ctx_b": "",
            "endings": ["to the river.", "to the library.", "by train.", "in spring."],
            "label": 2,
        },
    ],
    "piqa": [
        {"goal": "See London", "sol1": "Take a train.", "sol2": "Take the opera.", "label": 0},
        {"goal": "Play \n", "sol1": " tennis", "sol2": "piano ", "label": 1},
        {"goal": LONG, "sol1": "Cross it.", "sol2": "Write a novel about it.", "label": 1},
    ],
    "mmlu": [
        {
            "question": " Which star is nearest? ",
            "subject": "astronomy",
            "choices": ["The Sun", "Vega", "Sirius", "Rigel"],
            "answer": 0,
        },
        {
            "question": LONG,
            "subject": "astronomy",
            "choices": ["one", "two", "three", "four"],
            "answer": 3,
        },
    ],
}
CHOSEN = tuple(RECORDS)


def ours(lm, tokenizer, name, file):
    """Items of a file, their continuations' log-probabilities, and whether each is right."""
    items = read_tasks(TaskOptions(names=[name], files={name: str(file)}))[name]
    window = lm.config.max_position_embeddings
    pairs = [(item.context, choice) for item in items for choice in item.choices]
    spans = [continuation_span(tokenizer, *pair, window) for pair in pairs]
    found = score(lm, spans).log_prob.split([len(item.choices) for item in items])
    right = choose(lambda spans: score(lm, spans), tokenizer, items, window)
    return items, [log_prob.tolist() for log_prob in found], [scores[name] for scores in right]


def assert_parity(lm, tokenizer, name, file):
    items, log_probs, right = ours(lm, tokenizer, name, file)
    samples = judged_by_harness(harness_model(lm, tokenizer), name, file)
    assert [item.context for item in items] == [sample["context"] for sample in samples]
    assert [item.choices for item in items] == [sample["continuations"] for sample in samples]
    theirs = [[log_prob for log_prob, _ in sample["filtered_resps"]] for sample in samples]
    for own, their in zip(log_probs, theirs, strict=True):
        assert own == pytest.approx(their, abs=1e-4, rel=1e-5)
    assert right == [sample["acc"] for sample in samples]
    return right


@pytest.fixture(scope="module")
def embedded():
    return load("embedded", "float32")


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("bos", [False, True])
def test_choices_are_the_harness_choices_on_a_tiny_model(tiny_gpt2, name, bos, tmp_path):
    file = write_lines(tmp_path / "records.jsonl", RECORDS[name])
    assert_parity(tiny_gpt2, tiny_tokenizer(bos), name, file)


@pytest.mark.parametrize("name", CHOSEN)
def test_choices_are_the_harness_choices_with_llamas_kind_of_tokens(tiny_llama, name, tmp_path):
    file = write_lines(tmp_path / "records.jsonl", RECORDS[name])
    assert_parity(tiny_llama, tiny_metaspace_tokenizer(), name, file)


@pytest.mark.parametrize("name", CHOSEN)
def test_choices_are_the_harness_choices_on_the_embedded_model(embedded, name, tmp_path):
    lines = (FOLDER / "tasks" / f"{name}.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    records = [r for r in records if r.get("subject", "astronomy") == "astronomy"][:6]
    right = assert_parity(*embedded, name, write_lines(tmp_path / "records.jsonl", records))
    assert name == "mmlu" or sum(right) / len(right) > 0.6


@pytest.mark.parametrize("name", ["lambada", "hellaswag", "piqa"])
def test_choices_are_the_harness_choices_on_public_items(embedded, name, shared_data, tmp_path):
    stored = {"lambada": "lambada_test", "hellaswag": "hellaswag_val_1000", "piqa": "piqa"}
    lines = (shared_data / "tasks" / f"{stored[name]}.jsonl").read_text().splitlines()[:6]
    records = [json.loads(line) for line in lines]
    if name == "piqa":  # stored in another form, in which the harness does not read it
        file = write_lines(tmp_path / "stored.jsonl", records)
        stored_items = ours(*embedded, name, file)[0]
        records = [
            {
                "goal": record["query"].removeprefix("Question: ").removesuffix("\n"),
                "sol1": record["choices"][0],
                "sol2": record["choices"][1],
                "label": record["gold"],
            }
            for record in records
        ]
        file = write_lines(tmp_path / "records.jsonl", records)
        assert ours(*embedded, name, file)[0] == stored_items
    assert_parity(*embedded, name, write_lines(tmp_path / "records.jsonl", records))


def test_written_answers_are_the_harness_answers(embedded, tmp_path):
    """The wanted answers are made of what the model says, so that some of them are right."""
    lm, tokenizer = embedded
    questions = ["what is the capital of France", "who wrote Hamlet", "where is Oslo"]
    records = [{"question": question, "answer": ["x"]} for question in questions]
    said = judged_by_harness(
        harness_model(lm, tokenizer), "nq_open", write_lines(tmp_path / "first.jsonl", records)
    )
    spoken = said[0]["filtered_resps"][0]
    records[0]["answer"] = ["nothing", f"The {spoken.upper()}!"]
    file = write_lines(tmp_path / "second.jsonl", records)
    samples = judged_by_harness(harness_model(lm, tokenizer), "nq_open", file)
    items = read_tasks(TaskOptions(names=["nq_open"], files={"nq_open": str(file)}))["nq_open"]
    assert [item.context for item in items] == [sample["context"] for sample in samples]
    assert list(items[0].until) == samples[0]["arguments"][0][1]["until"]
    right = [scores["nq_open"] for scores in write_answers(lm, tokenizer, items, 256)]
    assert right == [sample["exact_match"] for sample in samples]
    assert right[0] == 1


def test_questions_about_a_passage_are_put_as_the_harness_puts_them():
    from lm_eval.tasks.squadv2.task import SQuAD2

    line = (FOLDER / "tasks" / "squad_v2.jsonl").read_text().splitlines()[0]
    (item, *_) = read_tasks(TaskOptions(names=["squad_v2"]))["squad_v2"]
    record = json.loads(line)
    assert item.context == SQuAD2.doc_to_text(None, record)
    asked = SQuAD2.construct_requests(None, record, item.context)[0]
    assert asked.args == (item.context, {"until": list(item.until)})
    assert list(item.answers) == record["answers"]["text"]


def test_the_likeliest_continuation_is_chosen_and_length_plays_no_part(tiny_gpt2):
    tokenizer = tiny_tokenizer()
    choices = (" Paris", " the capital of France and a city of music")
    item = TaskItem("piqa", 0, "Mary lives in", choices, gold=0)
    log_probs = []
    for choice in choices:
        tokens = tokenizer(item.context + choice, return_tensors="pt")["input_ids"]
        start = len(tokenizer(item.context)["input_ids"])
        logits = tiny_gpt2(tokens).logits[0].log_softmax(-1)
        log_probs.append(float(logits[start - 1 : -1].gather(1, tokens[0, start:, None]).sum()))
    (found,) = choose(lambda spans: score(tiny_gpt2, spans), tokenizer, [item], 128)
    assert found == {"piqa": float(log_probs[0] > log_probs[1])}
    (other,) = choose(
        lambda spans: score(tiny_gpt2, spans), tokenizer, [item._replace(gold=1)], 128
    )
    assert other["piqa"] == 1 - found["piqa"]


def test_a_continuation_longer_than_the_window_is_refused(tiny_gpt2):
    with pytest.raises(ValueError, match="more than the model's window of 8"):
        continuation_span(tiny_tokenizer(), "He said", f" {LONG}", 8)


@pytest.mark.parametrize("bos", [False, True])
def test_tokens_that_the_tokenizer_puts_behind_a_text_are_not_scored(bos):
    pair = "Mary lives in", " Paris"
    expected = continuation_span(tiny_tokenizer(bos), *pair, 128)
    assert continuation_span(tiny_tokenizer(bos, eos=True), *pair, 128) == expected
