"""A model whose layers lie on two devices, or on disk, edits as the whole one does."""


import pytest
import torch
from accelerate import dispatch_model

from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.device_map import units
from lightning_modules.language_model.loading import fingerprint, load
from lightning_modules.language_model.split import is_split
from tests.batches import ready
from tests.second_device import NAME, SecondDevice
from tests.test_second_device import KEY_VALUE, OTHERS, told
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

LAST = 2


@pytest.fixture
def on_disk(tmp_path):
    """Loads a tiny model of a family with layers on disk, and the same model whole."""

    def load_both(family: str, layers: tuple[int, ...] = (1, 2)):
        folder = save_tiny(tmp_path / family, family)
        whole, tokenizer = load(str(folder))
        lists = [name for name in units(whole) if name[-1].isdigit()]
        places = "".join(f"\n{lists[layer]}: disk" for layer in layers)
        file = tmp_path / "map.yaml"
        file.write_text("'': cpu" + places)
        return load(str(folder), device_map=str(file)), (whole, tokenizer)

    return load_both


def prepared(editor: Editor, lm, tokenizer=None) -> Editor:
    if hasattr(editor, "contexts"):
        return ready(editor, lm)
    editor.attach(lm, tokenizer or tiny_tokenizer())
    editor.prepare()
    return editor


def across(lm):
    """The first layer on the CPU, the others on a second device, texts enter and leave on the CPU."""
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
        assert {w.device.type for w in split.edited.masters().values()} <= {NAME, "cpu"}
        assert list(told(split)) == pytest.approx(here, rel=1e-4)


def test_every_family_is_edited_across_two_devices(family):
    make = KEY_VALUE["rome"]
    assert_same_across(make(), prepared(make(), tiny_model(family)))


@pytest.mark.parametrize("name", KEY_VALUE | OTHERS)
def test_every_method_edits_across_two_devices(name):
    make = (KEY_VALUE | OTHERS)[name]
    assert_same_across(make(), prepared(make(), tiny_model("gpt2")))


def test_every_family_on_disk_is_edited_bit_for_bit(on_disk, family):
    split, whole = on_disk(family)
    assert is_split(split[0])
    assert fingerprint(*split) == fingerprint(*whole)
    editors = [prepared(KEY_VALUE["rome"](), lm) for lm, _ in (split, whole)]
    assert list(told(editors[0])) == list(told(editors[1]))
    assert sum(weight.is_meta for weight in split[0].parameters()) > 10
    assert not any(weight.is_meta for weight in editors[0].edited.masters().values())


@pytest.mark.parametrize("name", KEY_VALUE | OTHERS)
def test_every_method_edits_a_model_on_disk_bit_for_bit(on_disk, name):
    split, whole = on_disk("gpt2")
    editors = [prepared((KEY_VALUE | OTHERS)[name](), lm) for lm, _ in (split, whole)]
    assert list(told(editors[0])) == list(told(editors[1]))
