"""A model whose maps, but for those under edit, are kept in 8 or 4 bits."""

import json

import pytest
import torch
import torch.nn.functional as F

import keel
from lightning_modules.editing.model_card import model_card
from lightning_modules.jobs.treated import treated
from lightning_modules.language_model.layout import output_weight_name
from lightning_modules.language_model.loading import load
from lightning_modules.language_model.quantized import (
    QuantizedMap,
    bytes_of,
    quantize_rest,
)
from lightning_modules.language_model.treatments import round_weights
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.lora import LoRA
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME
from tests.batches import REQUESTS
from tests.callbacks.runs import WEIGHT, options_of, tiny_lm
from tests.gguf_models import quantisable_model
from tests.test_devices import RUN
from tests.test_second_device import TEXTS
from tests.tiny import EDITED_LAYER, save_tiny, tiny_model, tiny_tokenizer
from train import main

KINDS = ("int8", "int4")
FREE = {"second_moment": "identity", "contexts": {4: 1}, "lm": "tiny"}
METHODS = {
    "rome": lambda kind: ROME(EDITED_LAYER, quantized=kind, **FREE),
    "memit": lambda kind: MEMIT(layers=[0, 1], quantized=kind, **FREE),
    "ft": lambda kind: FineTuning(layers=[EDITED_LAYER], steps=3, quantized=kind, lm="tiny"),
    "lora": lambda kind: LoRA(layers=[EDITED_LAYER], steps=3, quantized=kind, lm="tiny"),
}


def attached(editor, lm):
    editor.attach(lm, tiny_tokenizer())
    editor.prepare()
    return editor


def rounded_rest(family: str, kind: str, edited: list[str]):
    """The slow way: the same model with all its weights but those under edit rounded in place."""
    lm = quantisable_model(family)
    kept = {name: lm.get_parameter(name).clone() for name in edited}
    round_weights(lm, kind)
    for name, weight in kept.items():
        lm.get_parameter(name).data.copy_(weight)
    return lm


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [32, 96])
def test_a_map_holds_the_rounded_weight_and_its_gradient(kind, width):
    lm = quantisable_model()
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    q = lm.model.layers[0].self_attn.q_proj.weight.clone()
    round_weights(lm, kind)
    held = QuantizedMap(q, None, kind)
    assert torch.equal(held.fetched(), lm.model.layers[0].self_attn.q_proj.weight)
    bias = torch.arange(5.0)
    held = QuantizedMap(weight, bias, kind)
    x = torch.randn(2, 3, width, requires_grad=True)
    right = F.linear(x, held.fetched(), bias)
    torch.testing.assert_close(held(x), right)
    seed = torch.randn(2, 3, 5)
    gradients = [torch.autograd.grad(found, x, seed)[0] for found in (held(x), right)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8.5), ("int4", 5)])
def test_bytes_are_those_of_the_codes_and_scales(kind, bits):
    lm = quantisable_model()
    edited = output_weight_name(lm, 1)
    quantize_rest(lm, kind, [edited])
    kept, whole = bytes_of(lm)
    assert kept * 32 == whole * bits
    names = [name for name, _ in lm.named_parameters()]
    assert edited in names
    assert not any("_proj.weight" in name for name in names if name != edited)
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= set(names)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_edit_is_that_of_the_rounded_model(family, kind):
    editor = attached(METHODS["rome"](kind), quantisable_model(family))
    slow = attached(METHODS["rome"](None), rounded_rest(family, kind, editor.edited_weights()))
    slow.contexts.templates = editor.contexts.templates
    for each in (editor, slow):
        each.make_edit(REQUESTS[1:2])
        assert each.record["status"] == "applied"
    assert editor.judge(REQUESTS[1]) == pytest.approx(slow.judge(REQUESTS[1]), rel=1e-3)
    found, right = (each.watch(TEXTS).nll for each in (editor, slow))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_method_edits_beside_int4_and_gives_the_weights_back(name):
    editor = attached(METHODS[name]("int4"), quantisable_model())
    before = editor.watch(TEXTS).nll
    editor.make_edit(REQUESTS[1:2])
    assert editor.record["status"] == "applied"
    assert not torch.equal(editor.watch(TEXTS).nll, before)
    editor.restore()
    assert torch.equal(editor.watch(TEXTS).nll, before)


def test_bfloat16_edits_beside_int8():
    editor = attached(METHODS["rome"]("int8"), quantisable_model().to(torch.bfloat16))
    editor.make_edit(REQUESTS[1:2])
    assert editor.record["status"] == "applied"
    assert {weight.dtype for weight in editor.edited.masters().values()} == {torch.float32}


def test_the_card_tells_the_bytes():
    editor = attached(METHODS["rome"]("int4"), quantisable_model())
    card = model_card(editor, REQUESTS[1])
    assert card["quantized"].startswith(
        "maps that are not edited, in int4: 0.0 MiB in the place of"
    )
    assert editor.card()["quantized"] == "int4"


def test_a_quantised_layer_cannot_be_edited():
    editor = attached(METHODS["rome"]("int8"), quantisable_model())
    other = ROME(0, **FREE)
    other.borrow(editor)
    with pytest.raises(ValueError, match="kept in int8 cannot be edited or read as a weight; name"):
        other.edited.master(*other.edited_weights())


def test_a_model_without_whole_groups_is_refused():
    lm = tiny_model("llama", hidden_size=48, intermediate_size=48)
    with pytest.raises(ValueError, match="no map of the model has rows of whole groups of 32"):
        quantize_rest(lm, "int8", [])


def test_a_split_model_is_not_quantised(tmp_path):
    folder = save_tiny(tmp_path / "lm", "gpt2")
    (tmp_path / "map.yaml").write_text("{'': cpu, transformer.h.2: disk}")
    editor = ROME(1, lm=str(folder), quantized="int8", device_map=str(tmp_path / "map.yaml"))
    with pytest.raises(ValueError, match=r"does not go with --model\.device_map; choose one"):
        editor.configure_model()


def test_a_quantised_model_has_no_treated_copy():
    editor = attached(METHODS["rome"]("int8"), quantisable_model())
    with pytest.raises(ValueError, match=r"kept in --model\.quantized has no treated copy"):
        treated(editor, "none", [], 1)


def test_a_lent_model_gets_its_own_maps_back():
    lm = quantisable_model()
    tokens = torch.tensor([[3, 14, 15, 92]])
    before = lm(tokens).logits
    options = {"method": "ROME", "layer": 1, "second_moment": "identity", "quantized": "int4"}
    with keel.edited(lm, tiny_tokenizer(), [REQUESTS[1]], **options):
        assert any(isinstance(module, QuantizedMap) for module in lm.modules())
    assert not any(isinstance(module, QuantizedMap) for module in lm.modules())
    assert torch.equal(lm(tokens).logits, before)


def test_exports_are_of_the_unquantised_model(tmp_path, monkeypatch):
    lm = tiny_lm(tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    more = ["--model.quantized", "int8", "--export", "lm", "change"]
    main(["fit", *options_of(lm, tmp_path, 2), *more, "--trainer.enable_progress_bar", "false"])
    saved, original = load(str(RUN / "lm"))[0], load(lm)[0]
    held = torch.load(RUN / "checkpoints/last.ckpt")["state_dict"][f"lm.{WEIGHT}"]
    for name, weight in saved.named_parameters():
        assert torch.equal(weight, held if name == WEIGHT else original.get_parameter(name))
    assert not torch.equal(held, original.get_parameter(WEIGHT))
    assert (RUN / "change" / "change.safetensors").is_file()
    assert "quantization_config" not in json.loads((RUN / "lm" / "config.json").read_text())
