import json

import pytest

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.watching.standing import FILE, Standing, followed, read_standing
from data_modules.records import Consequence
from lightning_modules.methods.in_context import InContext
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, trainer_in, watching


def consequences(request):
    """The fact denied, and another that follows for one subject."""
    denied = request.text.replace(" is", " is not")
    told = [Consequence("negation", denied, request.target_true or "a", request.target_new)]
    if request.subject == "Paris":
        told.append(Consequence("one_hop", "The country of Paris is", "Peru", "France"))
    return told


def data():
    found = data_of()
    found.consequences = consequences
    return found


def run(lm, folder, marks=(1, 3), edits=4, resume=None):
    callbacks = [*watching(stop=False), Standing(marks, 4), EditCheckpoint()]
    trainer = trainer_in(folder, callbacks, limit_train_batches=edits, enable_checkpointing=True)
    trainer.fit(ROME(lm=lm, **METHOD), datamodule=data(), ckpt_path=resume)
    return read_standing(folder / FILE)


@pytest.fixture(scope="module")
def lines(lm, tmp_path_factory):
    return run(lm, tmp_path_factory.mktemp("standing"))


def test_all_edits_so_far_are_judged_at_each_mark_and_at_the_end(lines):
    judged = [(line["after"], int(line["identity"].split("-")[0])) for line in lines]
    cases = [request.case_id for request in REQUESTS]
    assert judged == [(1, 10), *((3, case) for case in cases[:3]), *((4, case) for case in cases)]


def test_every_protocol_has_its_score(lines):
    wanted = {"efficacy", "efficacy_exact_match", "efficacy_generation", "negation", "paraphrase"}
    wanted |= {"efficacy_generation_instruction", "neighborhood_agreement", "perplexity", "one_hop"}
    assert wanted <= lines[0].keys()
    assert "one_hop" not in lines[-1]


def test_a_resumed_run_writes_the_same_lines(lm, lines, tmp_path):
    run(lm, tmp_path, edits=2)
    file = tmp_path / FILE
    late = json.dumps({"after": 9, "identity": "10-x"})
    file.write_text(file.read_text() + late + "\n")
    resumed = run(lm, tmp_path, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert [line for line in resumed if line["after"] != 2] == lines


def test_a_consequence_is_asked_behind_the_fact_of_its_request(lm, monkeypatch):
    editor = InContext(lm=lm)
    editor.configure_model()
    editor.make_edit(REQUESTS[:1])
    asked = []
    once = editor.judging.once

    def score(spans):
        asked.extend(editor.tokenizer.decode(span.tokens) for span in spans)
        return once(spans)

    monkeypatch.setattr(editor.judging, "once", score)
    found = followed(editor, REQUESTS[:1], [consequences(REQUESTS[0])])
    assert set(found[0]) == {"negation", "one_hop"}
    assert all(text.startswith("Paris is the capital of Peru. ") for text in asked)
    assert any("Paris is not the capital of France" in text for text in asked)


def test_a_model_with_a_chat_template_is_also_asked_in_a_chat(lm):
    editor = InContext(lm=lm)
    editor.configure_model()
    assert Standing().writer_of(editor).contexts == ("instruction",)
    editor.tokenizer.chat_template = "{{ messages }}"
    assert Standing().writer_of(editor).contexts == ("instruction", "chat")
    assert Standing(contexts=["question"]).writer_of(editor).contexts == ("question",)


def test_without_consequences_none_are_told(lm, tmp_path):
    fit(lm, tmp_path, [*watching(stop=False), Standing((), 4)], REQUESTS[:1])
    (line,) = read_standing(tmp_path / FILE)
    assert not {"negation", "reversal", "one_hop"} & line.keys()


def test_a_mark_must_be_positive():
    with pytest.raises(ValueError, match=r"marks must be positive, got \[0\]"):
        Standing([0])


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"standing\.jsonl is broken"):
        read_standing(tmp_path / FILE)
