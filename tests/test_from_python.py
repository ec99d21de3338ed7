"""A model and a tokenizer in memory, edited without a Trainer, by every method there is."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import lightning_modules
from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.hypernetwork import Hypernetwork
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.jobs.layer_study import LayerStudy
from lightning_modules.jobs.replay import Replay
from lightning_modules.language_model.layout import output_weight_name
from lightning_modules.methods.key_value import KeyValueEditor
from lightning_modules.methods.mend import MEND
from lightning_modules.methods.no_edit import NoEdit
from lightning_modules.methods.rome import ROME
from lightning_modules.methods.spread import SpreadEditor
from tests.tiny import EDITED_LAYER, tiny_model, tiny_tokenizer

REQUESTS = [
    EditRequest(0, "{} is the capital of", "Paris", "Italy", "France"),
    EditRequest(1, "The mother tongue of {} is", "Danielle Vinson", "Latin", "French"),
]


def methods():
    """Every method but what others are made of, and jobs that make the edits of other methods."""
    for module in pkgutil.walk_packages(lightning_modules.__path__, "lightning_modules."):
        importlib.import_module(module.name)
    found, classes = [], [Editor]
    for method in classes:
        classes += [kind for kind in method.__subclasses__() if kind not in classes]
        ours = method.__module__.startswith("lightning_modules.")
        if (
            ours
            and not inspect.isabstract(method)
            and not issubclass(method, (Replay, NoEdit))  # these change no weight of their own
            and method not in (LayerStudy, SpreadEditor)
        ):
            found.append(method)
    return found


METHODS = methods()


@pytest.fixture
def editor(request, monkeypatch):
    """A method that was given a model as `from_pretrained` makes it."""
    keys = torch.randn(48, 200, generator=torch.Generator().manual_seed(0)).double()
    keys *= torch.logspace(0, -3, 48).double()[:, None]  # so that a null space is there
    monkeypatch.setattr(KeyValueEditor, "load_moment", lambda self, layer: keys @ keys.T / 200)
    shapes = {"transformer.h.1.mlp.c_proj.weight": (32, 48)}
    monkeypatch.setattr(
        "lightning_modules.methods.mend.load_hypernetwork",
        lambda *names: Hypernetwork(shapes, 4, 1e-2),
    )
    arguments = {
        name for kind in request.param.__mro__ for name in inspect.signature(kind).parameters
    }
    options = {
        "layer": EDITED_LAYER,
        "layers": [EDITED_LAYER],
        "contexts": {4: 2},
        "value": ValueSearchOptions(steps=2, clamp=20.0),
    }
    chosen = {name: value for name, value in options.items() if name in arguments}
    if "layer" in chosen:
        chosen.pop("layers", None)
    if request.param is MEND:
        chosen = {}
    made = request.param(**chosen)
    made.attach(tiny_model("gpt2").requires_grad_(True).train(), tiny_tokenizer())
    made.prepare()
    return made


every_method = pytest.mark.parametrize(
    "editor", METHODS, indirect=True, ids=lambda method: method.__name__
)


def parameters(editor):
    return {name: weight.clone() for name, weight in editor.lm.named_parameters()}


def same(one, other):
    return {name for name in one if torch.equal(one[name], other[name])}


def test_the_methods_are_found():
    assert {"ROME", "ConsistentROME", "PromptOnlyROME", "FineTuning", "MEND", "UltraEdit"} <= {
        method.__name__ for method in METHODS
    }


@every_method
def test_an_edit_is_made_reported_and_undone_exactly(editor):
    original = parameters(editor)
    editor.make_edit(REQUESTS[:1])
    report, first = editor.record, parameters(editor)
    assert report["status"] == "applied", report
    assert report["method"] == type(editor).__name__
    assert report["update_norm"] > 0
    assert original.keys() - same(original, first) <= set(editor.edited_weights())
    assert editor.applied
    history = {name: tensor.clone() for name, tensor in editor.history.items()}

    editor.make_edit(REQUESTS[1:])
    assert editor.edited_cases == [0, 1]
    editor.undo()
    assert same(first, parameters(editor)) == first.keys()
    assert same(history, editor.history) == history.keys() == editor.history.keys()
    assert editor.edited_cases == [0]

    editor.restore()
    assert same(original, parameters(editor)) == original.keys()
    assert (editor.history, editor.edited_cases) == ({}, [])


@every_method
def test_the_same_edit_again_is_the_same(editor):
    editor.make_edit(REQUESTS[:1])
    first = parameters(editor)
    editor.undo()
    editor.make_edit(REQUESTS[:1])
    assert same(first, parameters(editor)) == first.keys()


@pytest.mark.parametrize("editor", [ROME], indirect=True)
def test_a_report_tells_nothing_of_the_edit_before(editor):
    editor.make_edit(REQUESTS[:1])
    assert "above its goal" in editor.record["reason"]
    editor.search.options = ValueSearchOptions(steps=2, clamp=20.0, goal=1e9)
    editor.make_edit(REQUESTS[1:])
    assert "reason" not in editor.record


@pytest.mark.parametrize("editor", [ROME], indirect=True)
def test_undo_before_any_edit_changes_nothing(editor):
    original = parameters(editor)
    editor.undo()
    assert same(original, parameters(editor)) == original.keys()


@pytest.mark.parametrize("editor", [ROME], indirect=True)
def test_an_interrupted_edit_leaves_the_model_as_it_was(editor, monkeypatch):
    original, edit = parameters(editor), editor.edit

    def interrupted(requests):
        yield from edit(requests)
        raise KeyboardInterrupt

    monkeypatch.setattr(editor, "edit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        editor.make_edit(REQUESTS[:1])
    assert same(original, parameters(editor)) == original.keys()
    assert editor.edited_cases == []


def test_a_model_is_edited_where_it_is_and_frozen():
    lm = tiny_model("llama").to(torch.bfloat16).requires_grad_(True).train()
    editor = ROME(layer=EDITED_LAYER, second_moment="identity", contexts={4: 2})
    editor.attach(lm, tiny_tokenizer())
    assert editor.device == lm.device
    assert not lm.training
    assert not any(weight.requires_grad for weight in lm.parameters())
    assert editor.edited_weights() == [output_weight_name(lm, EDITED_LAYER)]


def test_a_tokenizer_that_cannot_locate_a_subject_is_refused():
    with pytest.raises(ValueError, match="is not a fast one and gives no character offsets"):
        ROME(1, lm="mine").attach(tiny_model("gpt2"), object())
