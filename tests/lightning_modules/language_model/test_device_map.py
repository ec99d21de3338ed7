import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_modules.language_model import device_map
from lightning_modules.language_model.device_map import (
    Room,
    bytes_by_device,
    plan,
    room_of,
    told,
    units,
)
from lightning_modules.language_model.loading import load
from tests.gguf_models import quantisable_model, write_gguf
from tests.tiny import tiny_config

CPU = Room([], {"cpu": 10**9})
GPUS = Room([0, 2], {0: 10**9, 2: 10**9, "cpu": 10**9})  # of a first process of two


@pytest.fixture
def empty():
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny_config("gpt2"), dtype=torch.float32)


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "map.yaml").write_text(text)
        return str(tmp_path / "map.yaml")

    return write


def test_a_map_places_layers_whole_and_the_longest_name_decides(empty, written):
    file = written("{'': 0, transformer.h: 1, transformer.h.2: disk}")
    places = plan(empty, file, GPUS)
    assert list(places) == list(units(empty))
    assert places["transformer.wte"] == places["lm_head"] == 0
    assert places["transformer.h.0"] == places["transformer.h.1"] == 2  # the process' second
    assert places["transformer.h.2"] == "disk"


def test_bytes_by_device_sum_to_the_model_with_shared_weights_once(empty, written):
    places = plan(empty, written("{'': cpu, transformer.h.1: disk}"), CPU)
    sizes = bytes_by_device(empty, places)
    assert sum(sizes.values()) == 4 * sum(weight.numel() for weight in empty.parameters())
    assert sizes["disk"] == 4 * sum(w.numel() for w in empty.transformer.h[1].parameters())


def test_auto_fills_most_of_the_memory_in_the_order_of_the_layers(empty):
    size = 4 * sum(weight.numel() for weight in empty.parameters())
    assert set(plan(empty, "auto", CPU).values()) == {"cpu"}
    places = plan(empty, "auto", Room([], {"cpu": size}))
    order = [places[f"transformer.h.{layer}"] for layer in range(3)]
    assert order == sorted(order)
    assert {places["transformer.wte"], places["lm_head"]} == {"cpu"}
    assert "disk" in order
    assert bytes_by_device(empty, places)["cpu"] <= 0.8 * size


def test_the_card_before_loading_names_layers_bytes_and_free_memory(empty, written):
    places = plan(empty, written("{'': cpu, transformer.h.1: disk, transformer.h.2: disk}"), CPU)
    cpu, disk = told(empty, places, CPU)
    assert cpu.startswith("cpu: 0.00 GiB of weights of 0.93 GiB free: transformer.wte")
    assert disk.endswith("of weights: transformer.h.1 to transformer.h.2")


def test_processes_take_turns_at_the_accelerators(monkeypatch):
    memory = dict.fromkeys(range(5), 10) | {"cpu": 40}
    monkeypatch.setattr(device_map, "get_max_memory", lambda: memory)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 5)
    kind = torch.device("meta").type  # any that is not the CPU
    first, second = (room_of(torch.device(kind, rank), 2) for rank in range(2))
    assert (list(first.accelerators), list(second.accelerators)) == ([0, 2, 4], [1, 3])
    assert second == Room([1, 3], {1: 10, 3: 10, "cpu": 20})
    assert room_of(torch.device("cpu")) == Room([], {"cpu": 40})


@pytest.mark.parametrize(
    ("text", "room", "why"),
    [
        ("{'': cpu, transformer.layers.1: disk}", CPU, "'transformer.layers.1' .* names no module"),
        ("{'': cpu, transformer.h.7: disk}", CPU, "has transformer.wte, .*h.0 to transformer.h.2"),
        ("{'': cpu, transformer.h.1.mlp: disk}", CPU, "inside transformer.h.1, which is placed"),
        ("{transformer: cpu}", CPU, "leaves out lm_head"),
        ("{'': cpu, transformer.h.1: 0}", CPU, "on 0, but this process has no accelerator, cpu"),
        ("{'': 0, transformer.h.1: 2}", GPUS, r"on 2, but .* accelerators 0 \(.*:0\), 1 \(.*:2\)"),
        ("{'': 0, transformer.h.1: gpu}", GPUS, "on 'gpu', but this process has"),
        ("{'': 0, transformer.wte: cpu}", GPUS, "puts transformer.wte on cpu, but texts enter"),
        ("{'': disk}", CPU, "puts transformer.wte on disk, but texts enter the model on cpu"),
        ("{'': cpu, lm_head: disk}", CPU, "lm_head and transformer.wte on one device"),
        ("{'': 0}", Room([0], {0: 1000, "cpu": 10**9}), "which has 0.00 GiB free; move layers"),
        ("[cpu]", CPU, "is no map of modules to devices"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(empty, written, text, room, why):
    with pytest.raises(ValueError, match=why):
        plan(empty, written(text), room)


def test_a_map_that_is_not_there_is_refused(empty):
    with pytest.raises(FileNotFoundError, match="no device map 'gone"):
        plan(empty, "gone.yaml", CPU)


def test_a_gguf_cannot_be_split(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", quantisable_model())
    with pytest.raises(ValueError, match="a GGUF file is read whole"):
        load(str(file), device_map="auto")
