"""Every dense family comes out right or is refused with a reason; the whole table is slow."""

import pytest
import torch

from data_modules.records import EditRequest
from docs.families import known, main, table
from lightning_modules.editing.model_card import model_card
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME
from tests.families import ALL, ROWS, WRAPPERS, Verdict, tiny_of, verdict
from tests.tiny import tiny_editor, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # of configs that are shrunk beyond their sense
FAST = {
    "bloom": "from the subject on, own masks",  # ALiBi, and an MLP with a second argument
    "falcon": "from the subject on",  # parallel residual
    "mpt": "from the subject on",  # ALiBi, no max_position_embeddings
    "granite": "from the subject on",  # residual multiplier, logit scaling
    "cohere2": "from the subject on",  # parallel residual, sliding window, logit scale
    "minicpm3": "from the subject on",  # keys and values of different widths
    "glm4": "from the subject on",  # a norm behind the MLP
    "gemma3": "from the subject on",  # the text part of an image-text model
    "gpt_bigcode": "from the subject on",  # one head of keys
    "doge": "from the subject on",  # dense, with a number of experts in its config
    "llava": "from the subject on",
    "qwen2_moe": "from the subject on",  # experts, and a gated shared one
    "flex_olmo": "from the subject on",  # experts, and a norm behind them
    "openai-gpt": "whole passes",
    "qwen3_5_text": "whole passes",  # recurrent layers among the others
    "gemma4_text": "whole passes",  # a value reaches the stream in no closed form
}
REFUSED = {
    "roberta": "a mask and explicit positions change the logits, by 0",
    "paligemma": "later tokens change the logits before them, by 1",
    "mamba": "no linear map outside of attention",
    "hrm_text": "no list of blocks runs once each",
    "llama4_text": "mixture of experts of an unknown kind",
    "bart": "encoder-decoder",
}
REQUEST = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin music")


@pytest.mark.parametrize("family", FAST)
def test_family_is_edited_searched_and_watched_as_by_whole_passes(family):
    found = verdict(family)
    assert found.reason == ""
    assert found.search == FAST[family]
    assert found.watching == "from the edited layer"


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({*ALL, *WRAPPERS} - {*FAST}))
def test_every_other_family_comes_out_right_or_is_refused(family):
    found = verdict(family)
    assert bool(found.reason) != bool(found.search)


@pytest.mark.parametrize("family", REFUSED)
def test_family_is_refused_with_a_reason(family):
    assert REFUSED[family] in verdict(family).reason


@pytest.mark.parametrize("family", ["bloom", "falcon", "granite", "gemma3", "qwen3_5_text"])
def test_rome_edits_a_family_without_a_row(family):
    editor = tiny_editor(ROME, tiny_of(family))
    span = target_span(editor.tokenizer, REQUEST.text, REQUEST.target_new)
    before = editor.score([span]).log_prob
    editor.make_edit([REQUEST])
    assert editor.record["status"] == "applied"
    assert editor.score([span]).log_prob > before


def test_card_tells_how_a_family_is_run():
    slow, fast = (
        model_card(tiny_editor(ROME, tiny_of(family)), REQUEST)["passes"]
        for family in ("qwen3_5_text", "bloom")
    )
    assert slow.startswith("values are searched by passes over the whole texts, watched text runs")
    assert "suffix: fails in the model's code (" in slow
    assert fast.startswith("values are searched from the subject on")


def test_layers_of_a_scaled_residual_do_not_share_one():
    editor = MEMIT(lm="tiny", layers=[0, 1], second_moment="identity")
    with pytest.raises(ValueError, match=r"'granite' cannot share a residual: .* scaled"):
        editor.attach(tiny_of("granite"), tiny_tokenizer())


def test_verdict_on_a_wrong_shortcut_is_an_error(monkeypatch):
    monkeypatch.setattr("tests.families.suffix_logits", lambda *_: torch.ones(len(ROWS), 420))
    with pytest.raises(AssertionError, match="logits of a moved value differs"):
        verdict("llama")


def test_table_has_a_row_per_family():
    lines = table(
        [
            Verdict("granite", "a.*.b", "added, times 0.3", "from the subject on", "all layers"),
            Verdict("x", reason="'x' is a mixture of experts: |"),
        ]
    ).splitlines()
    assert lines[2] == (
        "| granite | `a.*.b` | added, times 0.3 | from the subject on | all layers |"
    )
    assert lines[-1] == "| x | 'x' is a mixture of experts: \\| |"


def test_rows_of_a_page_are_the_verdicts_that_it_was_made_of():
    found = [
        Verdict("granite", "a.*.b", "added, times 0.3", "from the subject on", "all layers"),
        Verdict("x", reason="'x' is a mixture of experts: |"),
    ]
    assert known(f"# Page\n\n{table(found)}\n") == {row.family: row for row in found}


def test_row_of_an_unknown_family_cannot_be_made():
    with pytest.raises(ValueError, match="transformers knows no family lamma"):
        main(["lamma"])
