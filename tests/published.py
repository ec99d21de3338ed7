"""Figures that published code computed on nano_gpt2, kept outside this project, beside ours."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.hypernetwork import Hypernetwork
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.gradients import gradient_factors
from lightning_modules.language_model.tokens import edit_span
from lightning_modules.methods.alpha_edit import AlphaEdit
from lightning_modules.methods.emmet import EMMET
from lightning_modules.methods.encore import ENCORE
from lightning_modules.methods.key_value import KeyValueEditor
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.mend import MEND

LAYERS = (1, 2, 3)
SEARCH = {"weight_decay": 0.5, "clamp": 0.75}
METHODS = {  # published hyper-parameters of the figures, ``closed_form.json``
    "memit": lambda **o: MEMIT(1000.0, layers=LAYERS, value=ValueSearchOptions(**SEARCH), **o),
    "memitseq": lambda **o: MEMIT(
        1000.0, history=True, layers=LAYERS, value=ValueSearchOptions(**SEARCH), **o
    ),
    "alphaedit": lambda **o: AlphaEdit(
        0.1, 0.5, layers=LAYERS, value=ValueSearchOptions(**SEARCH), **o
    ),
    "encore1": lambda **o: ENCORE(
        1000.0, 0.1, ValueSearchOptions(**SEARCH, stop="most_probable"), layers=LAYERS, **o
    ),
    "encore4": lambda **o: ENCORE(
        1000.0,
        0.1,
        ValueSearchOptions(**SEARCH, stop="most_probable", patience=4),
        layers=LAYERS,
        **o,
    ),
    "nas": lambda **o: AlphaEdit(
        0.1, 0.5, layers=LAYERS, value=ValueSearchOptions(**SEARCH, anchor=12.587956), **o
    ),
    "emmet": lambda **o: EMMET(3, value=ValueSearchOptions(**SEARCH), **o),
}
MEND_NAMES = {
    "up": "u",
    "down": "v",
    "bias": "bias",
    "scale": "mode_scale.weight",
    "offset": "mode_shift.weight",
}


class Published:
    """The folder of figures, and editors of its model.

    Args:
        folder: the shared data.
    """

    def __init__(self, folder: Path) -> None:
        self.lm = str(folder / "models/nano_gpt2")
        golden = folder / "golden"
        self.closed = json.loads((golden / "methods/closed_form.json").read_text())
        self.small = json.loads((golden / "methods/small.json").read_text())
        self.tensors: dict[str, Tensor] = {
            **load_file(golden / "methods/closed_form.safetensors"),
            **load_file(golden / "methods/small.safetensors"),
        }
        self.r_p_rome = load_file(golden / "methods/r_p_rome.safetensors")
        self.rome = json.loads((golden / "rome_reference.json").read_text())
        self.moment = load_file(golden / "rome_reference.safetensors")["second_moment"]
        self.requests = {
            row["case"]: EditRequest(
                row["case_id"], row["prompt"], row["subject"], row["target_new"], row["target_true"]
            )
            for row in self.rome["cases"]
        }

    def batches(self, scenario: str, cases: Mapping[str, Any]) -> list[list[EditRequest]]:
        """The requests of a scenario's edits, one list per edit."""
        batches = cases[scenario] if isinstance(cases[scenario][0], list) else [cases[scenario]]
        return [[self.requests[case] for case in batch] for batch in batches]

    def closed_form(self, method: str) -> KeyValueEditor:
        """A method of ``closed_form.json``, with its model, contexts and second moment."""
        editor = METHODS[method](lm=self.lm)
        editor.configure_model()
        editor.contexts.templates = [text for kind in self.closed["contexts"] for text in kind]
        editor.contexts.lengths = {10: 5}
        editor.load_moment = lambda layer: self.moment
        editor.prepare()
        return editor

    def differences(self, method: str, scenario: str) -> dict[str, float]:
        """Largest relative difference of values, keys, changes and losses over the edits."""
        editor, found = self.closed_form(method), Largest()
        names = self.closed[method].get("same_z_as", {})
        for number, batch in enumerate(self.batches(scenario, self.closed["cases"])):
            prefix = f"{method}.{scenario}.{number}"
            sought = editor.seek(batch)
            values = torch.stack([where.values[0] + to.change for where, to in sought])
            found.note("values", values, self.tensor(f"{prefix}.z", names))
            losses = self.closed[method]["losses"].get(f"{scenario}.{number}")
            for (_, ours), theirs in zip(sought, losses or (), strict=losses is not None):
                found.note("losses", torch.tensor(ours.losses), torch.tensor(theirs))
            for layer, keys, change in edits(editor, batch):
                found.note("keys", keys, self.tensors.get(f"{prefix}.keys.{layer}"))
                sketch = change @ self.tensors["probe.1024"].double()
                found.note("changes", sketch, self.tensors.get(f"{prefix}.sketch.{layer}"))
        return dict(found)

    def tensor(self, name: str, elsewhere: Mapping[str, str]) -> Tensor | None:
        """A stored tensor, which may stand under another method's name."""
        return self.tensors.get(elsewhere.get(name.partition(".")[2], name))


class PublishedMEND(MEND):
    """MEND with the published parameters of its transform, and moments of its own.

    Args:
        published: the folder of figures.
    """

    def __init__(self, published: Published) -> None:
        super().__init__(lm=published.lm)
        self.published = published

    def attach(self, lm: Any, tokenizer: Any) -> None:
        """Takes the model, and makes the hypernetwork; its rate is negative, as theirs ascends."""
        about = self.published.small["mend"]
        weight = lm.get_parameter(about["weight"])  # stored as (in, out)
        shapes = {about["weight"]: weight.shape[::-1]}
        self.hypernetwork = Hypernetwork(shapes, about["rank"], -about["edit_lr"])
        (self.of_gradients,) = self.hypernetwork.transforms.values()
        for number, layer in enumerate((self.of_gradients.hidden, self.of_gradients.last)):
            for ours, theirs in MEND_NAMES.items():
                stored = f"mend.state.mlp.layers.{number}.{theirs}"
                getattr(layer, ours).data = self.published.tensors[stored]
        for request in self.published.requests.values():
            span = edit_span(tokenizer, request)
            self.hypernetwork.observe(gradient_factors(lm, [span], [about["weight"]]))
        self.hypernetwork.requires_grad_(False)
        Editor.attach(self, lm, tokenizer)


class Largest(dict[str, float]):
    """The largest relative difference of each quantity."""

    def note(self, quantity: str, ours: Tensor, theirs: Tensor | None) -> None:
        """Compares two tensors, if the published one is there."""
        if theirs is not None:
            difference = float((ours.double() - theirs.double()).norm() / theirs.double().norm())
            self[quantity] = max(self.get(quantity, 0.0), difference)


def edits(editor: Editor, batch: list[EditRequest]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Makes an edit; yields each layer, its keys ``(n, f)`` and its change ``(d, f)``, float64."""
    seen, fit = [], editor.system.fit

    def noted(layer: int, keys: Tensor, *rest: Any) -> Any:
        seen.append((layer, keys.T))
        return fit(layer, keys, *rest)

    editor.system.fit = noted
    editor.make_edit(batch)
    editor.system.fit = fit
    assert editor.record["status"] == "applied"
    for (layer, keys), update in zip(seen, editor.applied, strict=True):
        yield layer, keys, update.dense().double()
