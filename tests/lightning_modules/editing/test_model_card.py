import pytest
import torch

from data_modules.records import EditRequest
from lightning_modules.editing.model_card import model_card
from lightning_modules.methods.rome import ROME
from tests.gguf_models import quantisable_model, write_gguf
from tests.tiny import tiny_editor, tiny_model, tiny_tokenizer

REQUEST = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin music")


@pytest.fixture
def card(tiny_lm) -> dict[str, str]:
    return model_card(tiny_editor(ROME, tiny_lm), REQUEST)


def test_card_names_family_weight_and_its_way_round(tiny_lm, card):
    family = tiny_lm.config.model_type
    stored = "(48, 32)" if family == "gpt2" else "(32, 48)"
    assert f"of the family {family}: 3 layers" in card["model"]
    assert card["edits 1"].endswith(f".weight: 48 in, 32 out, stored as {stored}")
    assert card["second moment"] == "left out"


def test_card_shows_where_subject_and_target_lie(card):
    tokens = card["tokens"].split(" ")
    assert "".join(token.partition(":")[2] for token in tokens).replace("Ġ", " ") == (
        "The mother tongue of Danielle Vinson is Latin music"
    )
    assert card["subject's last token"] in tokens
    behind = tokens.index(card["subject's last token"]) + 1
    assert tokens[behind].endswith(":Ġis")
    target = card["target's tokens"].split(" ")
    assert target == tokens[-len(target) :]
    assert "".join(token.partition(":")[2] for token in target) == "ĠLatinĠmusic"


def test_a_request_without_a_subject_has_a_card_but_no_edit_at_it(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    bare = EditRequest(8, "Oslo is in", "", "Peru")
    assert model_card(editor, bare)["subject's last token"] == "none"
    with pytest.raises(ValueError, match="'Oslo is in' names no subject"):
        editor.make_edit([bare])


def test_card_tells_the_token_before_a_text():
    editor = ROME(lm="tiny", layer=1, second_moment="identity")
    editor.attach(tiny_model("llama"), tiny_tokenizer(bos=True))
    assert "puts <|endoftext|> before a text" in model_card(editor, REQUEST)["tokenizer"]


def test_card_says_which_statistics_are_missing_and_how_to_make_them():
    editor = ROME(lm="tiny", layer=1)
    editor.attach(tiny_model("gpt2"), tiny_tokenizer())
    needed = model_card(editor, REQUEST)["second moment"]
    assert needed.startswith("MISSING: no key statistics of 'tiny'")
    assert "key-statistics.yaml" in needed


def test_card_finds_the_embedded_statistics():
    editor = ROME()
    editor.configure_model()
    card = model_card(editor, REQUEST)
    assert card["second moment"].startswith("found, of layers [1] in ")
    assert card["memory"].startswith("model 0.04 GiB")
    if torch.backends.mkldnn.is_available():
        assert "weights packed for searches at most 0.05 GiB" in card["memory"]


def test_card_says_that_weights_were_dequantised_and_what_exports_then_are(tmp_path):
    editor = ROME(
        1,
        lm=str(write_gguf(tmp_path / "tiny.gguf", quantisable_model())),
        second_moment="identity",
    )
    editor.configure_model()
    said = model_card(editor, REQUEST)["dequantised from"]
    assert said.startswith("tiny.gguf (weights: 23 Q8_0, 7 F32); edits and exports are in ")
    assert said.endswith("torch.float32, larger than that file and no more exact")


def test_card_of_a_model_that_never_was_quantised_does_not_mention_it(card):
    assert "dequantised from" not in card
