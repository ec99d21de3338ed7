import json

import pytest

from docs import models
from docs.models import Course, Said, course, figures, main, marked, names, texts
from tests.tiny import save_tiny, tiny_chat_tokenizer

JOURNAL = [
    {"prompt": "{} is in", "subject": "The Louvre", "target_new": "Rome", "target_true": "Paris"},
    {
        "prompt": "{} spoke",
        "subject": "Ada Lovelace",
        "target_new": "Dutch",
        "target_true": "French",
    },
]
SUMMARY = {
    "baseline": {"perplexity": 80.0},
    "final_perplexity": 84.0,
    "means": {"efficacy": 0.5},
}
BEFORE = Said([" Paris, France", " English"], ["It is in Paris.", "She spoke French."])
AFTER = Said([" Rome.", " a|b"], ["Both Rome and Paris.", "She spoke Dutch."])
MADE = {"C-ROME": Course(JOURNAL, SUMMARY, BEFORE, AFTER)}


def test_answers_are_bold_where_the_text_begins_with_them():
    assert texts(MADE, "bare").splitlines()[2:] == [
        "| The Louvre is in | ✓ **Paris**, France | ✓ **Rome**. |",
        "| Ada Lovelace spoke | ✗ English | ✗ a\\|b |",
    ]
    assert marked(" Parisian", "Paris", "Rome", "bare") == "✗ Parisian"


def test_in_chat_a_sentence_states_the_answer_that_it_alone_names():
    assert texts(MADE, "chat").splitlines()[2:] == [
        "| The Louvre is in | ✓ It is in **Paris**. | ✗ Both Rome and Paris. |",
        "| Ada Lovelace spoke | ✓ She spoke **French**. | ✓ She spoke **Dutch**. |",
    ]
    assert not names("Parisians", "Paris", "Rome")


def test_figures_count_stated_facts_and_the_change_of_perplexity():
    row = "| C-ROME | 1 of 2 | 1 of 2 | 50.0 | 80 | 84 | +5.0 % |"
    assert figures(MADE).splitlines()[2] == row


@pytest.fixture
def page(tmp_path, monkeypatch):
    page = tmp_path / "models.md"
    monkeypatch.setattr(models, "PAGE", page)
    monkeypatch.setattr(models, "course", lambda config, options: MADE["C-ROME"])
    return page


def test_tables_replace_what_stood_between_the_marks(page):
    page.write_text(f"before\n{models.BEGIN}\nold\n{models.END}\nbehind\n")
    main([])
    text = page.read_text()
    assert text.startswith(f"before\n{models.BEGIN}\n\n| method |")
    assert text.endswith(f"|\n\n{models.END}\nbehind\n")
    assert "old" not in text


def test_page_without_marks_is_refused_before_any_edit(page, monkeypatch):
    page.write_text("nothing")
    monkeypatch.setattr(models, "course", None)
    with pytest.raises(ValueError, match="has no place for the table"):
        main([])


def test_a_course_edits_all_facts_and_keeps_what_was_said_before(tmp_path, monkeypatch):
    fact = {"prompt": "Rome is in", "subject": "Rome", "target_new": "Peru"}
    (tmp_path / "facts.json").write_text(json.dumps([fact | {"ground_truth": "Italy"}]))
    lm = save_tiny(tmp_path / "lm", "llama")
    tiny_chat_tokenizer().save_pretrained(lm)
    given = f"--model.lm {lm} --data.path {tmp_path}/facts.json"
    monkeypatch.setattr(models, "GIVEN", f"{given} --trainer.enable_progress_bar false")
    options = ["--model.second_moment", "identity", "--model.contexts", "{5: 1}"]
    options += ["--model.layer", "1"]
    made = course("c_rome.yaml", [*options, "--data.watch_limit", "2"])
    assert [edit["subject"] for edit in made.journal] == ["Rome"]
    assert made.summary["edits"] == len(made.before.bare) == len(made.after.chat) == 1
