from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Llama4TextConfig

from lightning_modules.language_model.layout import oriented, output_weight_name
from lightning_modules.language_model.loading import EMBEDDED, artefact_file, fingerprint, load
from tests.families import tiny_of
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer


def test_loaded_model_is_the_saved_one_frozen_and_in_eval_mode(tmp_path, family):
    lm, tokenizer = load(str(save_tiny(tmp_path, family, bos=True)))
    tokens = torch.tensor([tokenizer("Rome is the capital of Italy")["input_ids"]])
    assert tokens[0, 0] == tokenizer.bos_token_id
    torch.testing.assert_close(lm(tokens).logits, tiny_model(family)(tokens).logits)
    assert not lm.training
    assert not any(parameter.requires_grad for parameter in lm.parameters())


def test_weights_come_in_the_dtype_asked_for(tmp_path):
    lm, _ = load(str(save_tiny(tmp_path, "gpt2")), "bfloat16")
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "name", ["no-such-model", "no-such/model", "no/such/folder/here", "./nothing", "/nowhere/lm"]
)
def test_missing_model_is_told_in_one_sentence(name):
    with pytest.raises(FileNotFoundError, match=r"no language model .* local folder$") as error:
        load(name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_folder_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"^Unrecognized model in .* in its config.json.$"):
        load(str(tmp_path))


def test_folder_without_weights_is_no_model(tmp_path):
    (save_tiny(tmp_path, "gpt2") / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither a folder with config.json and weights"):
        load(str(tmp_path))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_named(tmp_path, poison):
    file = save_tiny(tmp_path, "llama") / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = poison
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"'model.layers.1.mlp.down_proj.weight' of .* holds NaN"):
        load(str(tmp_path))


def test_model_that_cannot_be_edited_is_refused_before_its_weights_are_read(tmp_path):
    Llama4TextConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="'llama4_text' is a mixture of experts of an unknown kind"
    ):
        load(str(tmp_path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["bloom", "gemma3", "llava"])
def test_family_without_a_row_is_loaded_whole(tmp_path, family):
    lm = tiny_of(family)
    lm.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded, _ = load(str(tmp_path))
    assert type(loaded) is type(lm)
    tokens = torch.tensor([[31, 90, 12, 55]])
    torch.testing.assert_close(loaded(tokens).logits, lm(tokens).logits)


def test_two_loads_have_one_fingerprint(tmp_path, family):
    save_tiny(tmp_path, family)
    assert fingerprint(*load(str(tmp_path))) == fingerprint(*load(str(tmp_path)))


def test_fingerprint_tells_a_rank_one_edit(tiny_lm):
    tokenizer, weight = tiny_tokenizer(), oriented(tiny_lm, output_weight_name(tiny_lm, 1))
    before, original = fingerprint(tiny_lm, tokenizer), weight.clone()
    weight += 1e-3 * torch.outer(torch.randn(32), torch.randn(48))
    edited = fingerprint(tiny_lm, tokenizer)
    weight.copy_(original)
    assert edited != before
    assert fingerprint(tiny_lm, tokenizer) == before


@pytest.mark.parametrize("silent", [0, 1, -1])
def test_fingerprint_tells_an_edit_of_a_large_matrix_with_a_silent_key(silent):
    lm = torch.nn.Linear(64, 8192, bias=False).requires_grad_(False)
    before, right = fingerprint(lm, tiny_tokenizer()), torch.ones(64)
    right[silent] = 0  # of OPT's keys, behind a ReLU, most numbers are zero
    lm.weight += torch.outer(torch.randn(8192), right)
    assert fingerprint(lm, tiny_tokenizer()) != before


def test_fingerprint_tells_models_and_tokenizers_apart():
    lm = tiny_model("llama")
    other = tiny_tokenizer()
    other.add_tokens(["Colosseum"])
    names = {
        fingerprint(lm, tiny_tokenizer()),
        fingerprint(tiny_model("llama", seed=1), tiny_tokenizer()),
        fingerprint(lm, other),
    }
    assert len(names) == 3


def test_place_of_an_artefact_tells_models_and_weights_apart():
    assert artefact_file("mend", "here.safetensors", "embedded", "0" * 32) == Path(
        "here.safetensors"
    )
    assert artefact_file("mend", None, "embedded", "0" * 32) == EMBEDDED / "mend.safetensors"
    places = {
        artefact_file(kind, None, lm, model * 32)
        for kind in ("mend", "key_statistics")
        for lm in ("org/lm", "/org/lm2")
        for model in "01"
    }
    assert len(places) == 8
    assert {len(place.parts) for place in places} == {3}


def test_an_artefact_is_found_however_the_models_path_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub" / "m").mkdir(parents=True)
    spelled = ("sub/m", "./sub/m", "sub/m/", "./sub/../sub/m", str(tmp_path / "sub" / "m"))
    made, digest = {}, "ab" * 16
    for name in spelled:
        made[name] = artefact_file("key_statistics", None, name, digest)
    assert set(made.values()) == {Path("cache/key_statistics/m-abababababab.safetensors")}
    made["sub/m"].parent.mkdir(parents=True)
    made["sub/m"].touch()
    (tmp_path / "sub" / "m").rename(tmp_path / "moved")
    assert artefact_file("key_statistics", None, "moved", digest) == made["sub/m"]
    assert artefact_file("key_statistics", None, "org/copy", digest) == made["sub/m"]
    other = artefact_file("key_statistics", None, "moved", "cd" * 16)
    assert other == Path("cache/key_statistics/moved-cdcdcdcdcdcd.safetensors")
