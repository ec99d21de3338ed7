"""Which device holds which layer of a model that one device cannot hold."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from accelerate import infer_auto_device_map
from accelerate.utils import find_tied_parameters, get_balanced_memory, get_max_memory
from torch import nn
from transformers import PreTrainedModel

GIB = 2**30
SHARE = 0.8  # of a device's free memory that `auto` fills; the rest is for an edit's own tensors
OFFLOADED = ("cpu", "disk")  # where weights wait for a pass, if there is an accelerator
DeviceMap = dict[str, int | str]


class Room(NamedTuple):
    """The devices of one process.

    Attributes:
        accelerators: their numbers, the first is where texts enter; none if the CPU computes.
        free: bytes by device.
    """

    accelerators: Sequence[int]
    free: Mapping[int | str, int]

    @property
    def entrance(self) -> int | str:
        """The device where texts enter the model."""
        return self.accelerators[0] if self.accelerators else "cpu"


def room_of(root: torch.device, processes: int = 1) -> Room:
    """The devices of a process whose own is ``root``.

    Args:
        root: the process' own device.
        processes: on this machine; each takes every so manieth accelerator, its own first.
    """
    free = get_max_memory()
    found = range(root.index or 0, torch.accelerator.device_count(), processes)
    numbers = [] if root.type == "cpu" else list(found)
    own = {number: int(free[number]) for number in numbers}
    return Room(numbers, own | {"cpu": int(free["cpu"]) // processes})


def all_room() -> Room:
    """All devices of this machine."""
    return room_of(torch.accelerator.current_accelerator() or torch.device("cpu"))


def units(module: nn.Module, path: str = "") -> Iterator[str]:
    """What a map places whole, in order: layers, and the modules outside of them."""
    for name, child in module.named_children():
        own = f"{path}.{name}" if path else name
        inner = any(True for _ in child.children())
        if isinstance(module, nn.ModuleList) or not inner or vars(child)["_parameters"]:
            yield own
        else:
            yield from units(child, own)


def plan(lm: PreTrainedModel, wanted: str, room: Room) -> DeviceMap:
    """The device of every unit of a model.

    Args:
        lm: the model, on the meta device.
        wanted: ``auto``, or a YAML or JSON file: devices by module, where the longest name that
            fits a module decides and ``""`` fits all. A device is an accelerator's number among
            those of the process, ``cpu`` or ``disk``.
        room: the process' devices.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no map, names no module of the model or no device of the
            process, leaves a module out, cuts a layer or shared weights apart, does not put the
            embeddings where texts enter, or fills a device beyond its free memory.
    """
    asked = _balanced(lm, room) if wanted == "auto" else read_map(wanted, room)
    places = resolved(lm, asked, wanted)
    _require_entrance(lm, places, room, wanted)
    _require_united(lm, places, wanted)
    for device, size in bytes_by_device(lm, places).items():
        if size > room.free.get(device, size):
            raise ValueError(
                f"{wanted} puts {size / GIB:.2f} GiB of weights on {in_words(device)}, which has "
                f"{room.free[device] / GIB:.2f} GiB free; move layers to another device"
            )
    return places


def read_map(file: str, room: Room) -> DeviceMap:
    """Devices by module as a file states them, with the accelerators' own numbers."""
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"no device map {file!r}; --model.device_map is auto, or a YAML or JSON file of "
            "devices by module, such as {'': cpu, transformer.h.2: disk}"
        )
    found: Any = yaml.safe_load(Path(file).read_text("utf-8"))
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{file} is no map of modules to devices, such as {{'': 0, lm_head: cpu}}")
    return {str(name): _device(place, str(name), room, file) for name, place in found.items()}


def resolved(lm: PreTrainedModel, wanted: Mapping[str, int | str], source: str) -> DeviceMap:
    """The device of every unit, by the longest name that fits it."""
    names = list(units(lm))

    def fits(key: str, unit: str) -> bool:
        return not key or unit == key or unit.startswith(f"{key}.")

    for key in wanted:
        if not any(fits(key, unit) for unit in names):
            inside = [unit for unit in names if fits(unit, key)]
            why = f"lies inside {inside[0]}, which is placed whole" if inside else "names no module"
            raise ValueError(
                f"{key!r} in {source} {why}; this model has {', '.join(_shortened(names))}"
            )
    places: DeviceMap = {}
    for unit in names:
        keys = [key for key in wanted if fits(key, unit)]
        if not keys:
            raise ValueError(f"{source} leaves out {unit}; give every module a device, or add ''")
        places[unit] = wanted[max(keys, key=len)]
    return places


def bytes_by_device(lm: PreTrainedModel, places: DeviceMap) -> dict[int | str, int]:
    """Bytes of weights and buffers by device; shared weights count once."""
    sizes = dict.fromkeys(places.values(), 0)
    for name, tensor in (*lm.named_parameters(), *lm.named_buffers()):
        sizes[places[unit_of(name, places)]] += tensor.numel() * tensor.element_size()
    return sizes


def unit_of(name: str, places: DeviceMap) -> str:
    """The unit that a parameter belongs to."""
    return next(unit for unit in places if not unit or name.startswith(f"{unit}."))


def told(lm: PreTrainedModel, places: DeviceMap, room: Room) -> list[str]:
    """Per device its modules, the bytes of their weights and its free memory, in words."""
    lines = []
    for device, size in bytes_by_device(lm, places).items():
        held = _shortened([unit for unit, place in places.items() if place == device])
        free = room.free.get(device)
        of = "" if free is None else f" of {free / GIB:.2f} GiB free"
        lines.append(f"{in_words(device)}: {size / GIB:.2f} GiB of weights{of}: {', '.join(held)}")
    return lines


def in_words(device: int | str) -> str:
    """A device's name, such as ``cuda:1``."""
    kind = torch.accelerator.current_accelerator()
    number = f"{kind.type if kind else 'accelerator'}:{device}"
    return number if isinstance(device, int) else str(device)


def _balanced(lm: PreTrainedModel, room: Room) -> DeviceMap:
    """Layers spread evenly over the accelerators, then over the CPU and the disk."""
    whole = sorted({type(lm.get_submodule(unit)).__name__ for unit in _layers(lm)})
    free: dict[Any, Any] = {device: int(SHARE * size) for device, size in room.free.items()}
    if room.accelerators:
        free = get_balanced_memory(lm, free, whole)
    return infer_auto_device_map(lm, free, whole)


def _layers(lm: PreTrainedModel) -> list[str]:
    """Units that are members of a list of modules."""
    return [
        u for u in units(lm) if isinstance(lm.get_submodule(u.rpartition(".")[0]), nn.ModuleList)
    ]


def _device(place: Any, name: str, room: Room, file: str) -> int | str:
    """A stated device; the n-th accelerator of the process by its own number."""
    number = place if isinstance(place, int) else str(place).rpartition(":")[2]
    if place in OFFLOADED:
        return str(place)
    if not str(number).isdecimal() or int(number) >= len(room.accelerators):
        have = [in_words(device) for device in room.accelerators]
        listed = ", ".join(f"{index} ({device})" for index, device in enumerate(have))
        raise ValueError(
            f"{file} puts {name!r} on {place!r}, but this process has "
            f"{f'the accelerators {listed}' if have else 'no accelerator'}, cpu and disk"
        )
    return room.accelerators[int(number)]


def _require_entrance(lm: PreTrainedModel, places: DeviceMap, room: Room, source: str) -> None:
    """Refuses embeddings away from where texts enter."""
    names = {id(weight): name for name, weight in lm.named_parameters()}
    embeddings: Any = lm.get_input_embeddings()
    for name in (next(iter(names.values())), names[id(embeddings.weight)]):
        unit = unit_of(name, places)
        if places[unit] != room.entrance:
            raise ValueError(
                f"{source} puts {unit} on {in_words(places[unit])}, but texts enter the model on "
                f"{in_words(room.entrance)}; put it there by a map of your own"
            )


def _require_united(lm: PreTrainedModel, places: DeviceMap, source: str) -> None:
    """Refuses shared weights on several devices."""
    for shared in find_tied_parameters(lm):
        held = {unit_of(name, places) for name in shared}
        if len({places[unit] for unit in held}) > 1:
            raise ValueError(
                f"{source} must put {' and '.join(sorted(held))} on one device: they share weights"
            )


def _shortened(names: Sequence[str]) -> list[str]:
    """Names with runs of layers as first to last."""
    runs: list[list[str]] = []
    for name in names:
        stem, _, number = name.rpartition(".")
        last_stem, _, last = runs[-1][-1].rpartition(".") if runs else ("", "", "")
        follows = number.isdecimal() and last.isdecimal() and int(number) == int(last) + 1
        if follows and stem == last_stem:
            runs[-1].append(name)
        else:
            runs.append([name])
    return [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
