import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from callbacks.keeping.findings import Reply, fate, known_first, replies, whole
from callbacks.keeping.run_folder import read_journal
from data_modules.records import EditRequest, Frame
from lightning_modules.functional.value_search import FoundValue
from lightning_modules.language_model.generation import generate
from tests.tiny import save_tiny
from train import main

FACTS = [
    {"prompt": "The capital of Greece is", "target_new": "Paris"},
    {"prompt": "Where is the Eiffel Tower?", "subject": "Eiffel Tower", "target_new": "Rome"},
    {
        **{"prompt": "Berlin lies in", "subject": "Berlin", "target_new": "Italy"},
        **{"locality_prompt": "Rome lies in", "locality_ground_truth": "Italy"},
    },
]
QUICK = [
    *("--model.value.steps", "2"),
    *("--model.contexts", "{6: 2}"),
    *("--data.tasks.limit", "2"),
    *("--data.watch_limit", "4"),
    *("--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The short way, on a tiny model of three layers without statistics."""
    folder = tmp_path_factory.mktemp("edit")
    (folder / "facts.json").write_text(json.dumps(FACTS))
    lm = str(save_tiny(folder / "lm", "llama"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(FoundValue, "converged", True)  # else the guard refuses edits so short
        cli = main(
            ["fit", "--config", "edit.yaml", "--model.lm", lm, "--data.path", "facts.json", *QUICK]
        )
    return folder / "runs" / "edit" / "version_0", cli, folder


def test_the_short_way_ends_with_pages_a_model_a_change_and_an_adapter(run):
    folder, cli, _ = run
    text = (folder / "report.md").read_text()
    assert "| 1 | The capital of Greece is | Paris |" in text
    assert "Rome lies in" in text
    assert f"--model.ledger {folder.relative_to(run[2])} --model.without [3] --export lm" in text
    assert "estimated from the project's own text" in text
    page = (folder / "report.html").read_text()
    assert "Where is the Eiffel Tower?" in page
    for kind in ("lm", "change", "lora"):
        assert (folder / kind / "README.md").is_file()
    saved = AutoModelForCausalLM.from_pretrained(folder / "lm")
    for name in cli.model.edited_weights():
        assert torch.equal(saved.get_parameter(name), cli.model.lm.get_parameter(name))


def test_the_subject_that_was_left_out_was_found(run):
    assert [edit["subject"] for edit in read_journal(run[0])] == [
        "Greece",
        "Eiffel Tower",
        "Berlin",
    ]


def test_a_replay_without_an_edit_takes_everything_from_the_run(run, monkeypatch):
    _, cli, place = run
    monkeypatch.chdir(place)
    again = main(
        [
            *("validate", "--config", "replay.yaml", "--model.ledger", "runs/edit/version_0"),
            *("--model.without", "[3]", "--export", "lm"),
            *QUICK[6:],
        ]
    )
    assert again.model.lm_name == cli.model.lm_name
    assert len(again.model.edited_requests) == len(cli.model.edited_requests) - 1
    assert (place / "runs" / "replay" / "version_0" / "lm" / "model.safetensors").is_file()


def test_replies_are_of_the_unedited_and_the_edited_model(run):
    editor = run[1].model
    (reply,) = replies(editor, [("Rome lies in", "Italy")], Frame(), 4, lambda said, _: said == "")
    (now,) = generate(editor.lm, editor.tokenizer, ["Rome lies in"], ["\n"], 4)
    with editor.edited.unedited():
        (before,) = generate(editor.lm, editor.tokenizer, ["Rome lies in"], ["\n"], 4)
    assert (reply.before, reply.now) == (whole(before), whole(now))
    assert replies(editor, [], Frame(), 4, str.startswith) == []


def test_a_text_that_was_cut_off_ends_in_dots():
    assert [whole(text) for text in (" Rome, It", " Rome.", " ")] == ["Rome, It …", "Rome.", ""]


def test_a_facts_fate_is_found_in_a_batch_too():
    request = EditRequest(3, "{} is", "Oslo", "Peru")
    edits = [
        {"edit": 1, "case_id": [2, 3], "prompt": ["{} is"] * 2, "target_new": ["a", "Peru"],
         "status": "failed", "reason": "why"},
    ]  # fmt: skip
    assert fate(request, edits) == (1, "failed", "why")
    assert fate(request._replace(target_new="a"), edits) == (
        None,
        "not made",
        "the run ended before",
    )


def test_controls_are_those_that_the_model_knew():
    unknown = [Reply(f"{n}", "Peru", "Chile", "", False) for n in range(9)]
    known = Reply("k", "Peru", "Peru.", "", False)
    assert known_first([*unknown, known]) == [known]
    assert known_first(unknown) == unknown[:8]
