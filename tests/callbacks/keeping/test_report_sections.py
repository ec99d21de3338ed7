from pathlib import Path

from callbacks.keeping.findings import Fact, Findings, Reply
from callbacks.keeping.report_sections import headline, sections

SAID = Reply("Oslo lies in", "Peru", "Norway.", "Peru.", True)
CHAT = SAID._replace(now="It lies in Peru.")
FOUND = Findings(
    lm="m",
    run=Path("runs/edit/version_0"),
    about="MEMIT on w",
    facts=[
        Fact(1, "applied", "", SAID, CHAT),
        Fact(2, "rolled_back", "perplexity 90 > 50", SAID._replace(states=False), CHAT),
        Fact(None, "not made", "the run ended before", SAID, CHAT._replace(states=False)),
    ],
    neighbors=[SAID._replace(before="Peru!", now="Chile", states=False)],
    controls=True,
    scores={"perplexity": (20.0, 21.0), "piqa": (0.5, None)},
    chat="",
    exports={"lm": Path("runs/edit/version_0/lm"), "lora": Path("runs/edit/version_0/lora")},
)


def by_title(found):
    return {section.title: section for section in sections(found)}


def test_the_headline_counts_stated_facts_and_says_how_the_model_is():
    assert headline(FOUND) == (
        "The model now states 2 of 3 facts, and 2 when asked in chat. Its perplexity on ordinary "
        "sentences went from 20 to 21 (+5.0 %)."
    )
    bare = FOUND._replace(chat="no template", scores={"perplexity": (None, None)})
    assert headline(bare) == "The model now states 2 of 3 facts."


def test_what_was_refused_is_told_with_its_reason():
    rows = by_title(FOUND)["What was refused or made otherwise"].rows
    assert [tuple(cell.text for cell in row) for row in rows] == [
        ("2", "Oslo lies in", "refused", "perplexity 90 > 50"),
        ("", "Oslo lies in", "not made", "the run ended before"),
    ]
    otherwise = FOUND.facts[0]._replace(reason="made by ConsistentROME; MEMIT: perplexity 90 > 50")
    (row,) = by_title(FOUND._replace(facts=[otherwise]))["What was refused or made otherwise"].rows
    assert row[3].text == otherwise.reason
    fine = FOUND._replace(facts=[FOUND.facts[0]._replace(reason="value search ended at loss 1")])
    assert by_title(fine)["What was refused"].text == ["Nothing: every edit was made and kept."]


def test_a_lost_neighbor_is_marked_and_unmeasured_scores_are_named():
    (row,) = by_title(FOUND)["Other knowledge"].rows
    assert row[2] == ("Chile", False)
    health = by_title(FOUND)["The model's health"].rows
    assert [cell.text for cell in health[1]] == ["PIQA (everyday physics)", "50 %", "not measured"]


def test_undo_and_loading_are_exact_commands():
    assert by_title(FOUND)["Undoing an edit"].code == (
        "python train.py validate --config replay.yaml --model.ledger runs/edit/version_0 "
        "--model.without [1] --export lm"
    )
    loading = by_title(FOUND)["Loading the model"]
    assert len(loading.code.splitlines()) == 3
    assert loading.text[0] == (
        "Also written: a LoRA adapter for the unedited model in runs/edit/version_0/lora."
    )
    none = FOUND._replace(exports={}, facts=FOUND.facts[1:])
    assert "--export lm" in by_title(none)["Loading the model"].code
    assert "nothing to undo" in by_title(none)["Undoing an edit"].text[0]


def test_without_a_template_there_is_no_table_of_chat():
    bare = FOUND._replace(facts=[fact._replace(chat=None) for fact in FOUND.facts])
    assert "The same facts in chat" in by_title(FOUND)
    assert "The same facts in chat" not in by_title(bare)
