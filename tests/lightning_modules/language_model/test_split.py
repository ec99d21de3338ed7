"""A model whose layers lie on two devices, or on disk, edits as the whole one does."""

import pytest
import torch
from accelerate import dispatch_model

from callbacks.keeping.run_folder import read_journal
from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.in_memory import lent
from lightning_modules.editing.model_card import model_card
from lightning_modules.jobs.key_statistics import KeyStatistics
from lightning_modules.jobs.treated import treated
from lightning_modules.language_model.device_map import units
from lightning_modules.language_model.loading import fingerprint, load
from lightning_modules.language_model.split import is_split, weights_of
from lightning_modules.language_model.streamed import StreamedLinear
from lightning_modules.language_model.tracing import KINDS, fact_of, trace
from lightning_modules.methods.lora import LoRA
from tests.batches import ready
from tests.callbacks.runs import WEIGHT, options_of, tiny_lm, without_timings
from tests.second_device import NAME, SecondDevice
from tests.test_devices import RUN
from tests.test_second_device import KEY_VALUE, OTHERS, told
from tests.tiny import EDITED_LAYER, save_tiny, tiny_model, tiny_tokenizer
from train import main

METHODS = KEY_VALUE | OTHERS | {"lora": lambda: LoRA(layers=[EDITED_LAYER], lm="tiny", steps=3)}
FACT = EditRequest(1, "The mother tongue of {} is", "Danielle Vinson", "Latin", "French")


@pytest.fixture
def on_disk(tmp_path):
    """Loads a tiny model of a family with layers on disk, and the same model whole."""

    def load_both(family: str):
        folder, file = save_tiny(tmp_path / family, family), tmp_path / "map.yaml"
        whole = load(str(folder))
        waiting = [name for name in units(whole[0]) if name.endswith((".1", ".2"))]
        file.write_text("'': cpu" + "".join(f"\n{name}: disk" for name in waiting))
        return load(str(folder), device_map=str(file)), whole

    return load_both


def prepared(editor: Editor, lm, tokenizer=None) -> Editor:
    if hasattr(editor, "contexts"):
        return ready(editor, lm)
    editor.attach(lm, tokenizer or tiny_tokenizer())
    editor.prepare()
    return editor


def across(lm):
    """Only the first layer on the CPU, where texts enter; the others on a second device."""
    here, there = torch.device("cpu"), torch.device(NAME, 0)
    stays = {"lm_head", "embed_out", *(n for n in units(lm) if "emb" in n or "wte" in n)}
    far = [name for name in units(lm) if name not in stays and not name.endswith(".0")]
    places = {name: there if name in far else here for name in units(lm)}
    return dispatch_model(lm, places, main_device=here, skip_keys="past_key_values")


def assert_same_across(editor: Editor, whole: Editor) -> None:
    here = list(told(whole))
    with SecondDevice():
        split = prepared(editor, across(tiny_model(whole.lm.config.model_type)))
        assert is_split(split.lm)
        assert split.device.type == "cpu"
        assert NAME in {weight.device.type for weight in split.edited.masters().values()}
        assert list(told(split)) == pytest.approx(here, rel=1e-4)


def test_every_family_is_edited_across_two_devices(family):
    make = METHODS["rome"]
    assert_same_across(make(), prepared(make(), tiny_model(family)))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_edits_across_two_devices(name):
    assert_same_across(METHODS[name](), prepared(METHODS[name](), tiny_model("gpt2")))


def test_facts_are_traced_across_two_devices():
    fact = fact_of(tiny_tokenizer(), FACT)
    noise = torch.randn(
        2, fact.last + 1 - fact.first, 32, generator=torch.Generator().manual_seed(0)
    )
    whole = trace(tiny_model("gpt2"), fact, noise, 2, [0, 1, 2])
    with SecondDevice():
        split = trace(across(tiny_model("gpt2")), fact, noise, 2, [0, 1, 2])
    for kind in KINDS:
        torch.testing.assert_close(split.effects[kind], whole.effects[kind], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2"])
def test_a_model_on_disk_is_edited_bit_for_bit(on_disk, family):
    split, whole = on_disk(family)
    assert is_split(split[0])
    assert fingerprint(*split) == fingerprint(*whole)
    editors = [prepared(METHODS["rome"](), lm) for lm, _ in (split, whole)]
    assert list(told(editors[0])) == list(told(editors[1]))
    assert sum(weight.is_meta for weight in split[0].parameters()) > 10
    assert not any(weight.is_meta for weight in editors[0].edited.masters().values())


@pytest.mark.parametrize("name", ["memit", "alpha_edit", "ft", "ultra_edit", "lora"])
def test_methods_edit_a_model_on_disk_bit_for_bit(on_disk, name):
    split, whole = on_disk("gpt2")
    editors = [prepared(METHODS[name](), lm) for lm, _ in (split, whole)]
    assert list(told(editors[0])) == list(told(editors[1]))


def test_a_lent_model_on_disk_is_what_it_was(on_disk):
    (lm, _), (whole, _) = on_disk("llama")
    tokens = torch.tensor([[3, 14, 15, 92]])
    before = lm(tokens).logits
    with lent(lm):
        prepared(METHODS["rome"](), lm)
        assert any(isinstance(module, StreamedLinear) for module in lm.modules())
    assert not any(isinstance(module, StreamedLinear) for module in lm.modules())
    assert torch.equal(lm(tokens).logits, before)
    for (name, weight), (other, right) in zip(weights_of(lm), weights_of(whole), strict=True):
        assert name == other
        assert torch.equal(weight, right)


def test_statistics_of_a_model_on_disk_are_bit_for_bit_the_same(on_disk, tmp_path):
    on_disk("gpt2")
    folder, found = tmp_path / "gpt2", []
    for device_map in (None, str(tmp_path / "map.yaml")):
        output = str(folder / "moments")
        module = KeyStatistics(
            str(folder), tokens=300, window=7, output=output, device_map=device_map
        )
        module.configure_model()
        module.on_test_start()
        module.add([[3, 14, 15, 92], [65, 35, 89, 79, 32, 38]])
        found.append([running.total() for running in module.sums.values()])
    assert is_split(module.lm)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_run_on_disk_writes_what_a_run_in_memory_does(tmp_path, monkeypatch):
    lm = tiny_lm(tmp_path / "lm")
    options = options_of(lm, tmp_path, edits=2)
    (tmp_path / "map.yaml").write_text("{'': cpu, transformer.h.0: disk, transformer.ln_f: disk}")
    split = ["--model.device_map", str(tmp_path / "map.yaml"), "--export", "lm"]
    journals = []
    for name, more in (("whole", []), ("split", split)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        main(["fit", *options, *more, "--trainer.enable_progress_bar", "false"])
        journals.append(without_timings(read_journal(tmp_path / name / RUN)))
    assert journals[0] == journals[1]
    edited, _ = load(str(RUN / "lm"))
    original, _ = load(lm)
    assert not torch.equal(edited.get_parameter(WEIGHT), original.get_parameter(WEIGHT))
    assert torch.equal(
        edited.transformer.h[1].mlp.c_fc.weight, original.transformer.h[1].mlp.c_fc.weight
    )


def test_the_card_counts_memory_by_device(on_disk):
    (lm, _), _ = on_disk("gpt2")
    card = model_card(prepared(METHODS["rome"](), lm), FACT)
    assert card["on disk"].endswith("GiB of weights")
    assert f"GiB of copies of transformer.h.{EDITED_LAYER}.mlp.c_proj.weight" in card["on cpu"]


def test_a_split_model_has_no_treated_copy(on_disk):
    (lm, _), _ = on_disk("gpt2")
    with pytest.raises(ValueError, match=r"split by --model\.device_map .* has no treated copy"):
        treated(prepared(METHODS["rome"](), lm), "int8", [], 1)
