"""All that edits, judges and watches works where the model is, be that the CPU or not."""

from collections.abc import Iterator

import pytest
import torch

from data_modules.records import WatchedText
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.transforms import PRUNE, RECT, SPHERE
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.jobs.key_statistics import KeyStatistics
from lightning_modules.methods.alpha_edit import AlphaEdit
from lightning_modules.methods.emmet import EMMET
from lightning_modules.methods.encore import ENCORE
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.localized_fine_tuning import LocalizedFineTuning
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rls_edit import RLSEdit
from lightning_modules.methods.rome import ROME, ConsistentROME, PromptOnlyROME
from lightning_modules.methods.ultra_edit import UltraEdit
from tests.batches import LAYERS, REQUESTS, ready
from tests.lightning_modules.methods.test_mend import editor_with, trained
from tests.second_device import NAME, SecondDevice
from tests.tiny import EDITED_LAYER, save_tiny, tiny_model, tiny_tokenizer

TEXTS = WatchedText([0, 1, 2], ["Paris is the capital", "He plays the violin", "Mary lived"])
KEY_VALUE = {
    "rome": lambda: ROME(EDITED_LAYER, lm="tiny"),
    "c_rome": lambda: ConsistentROME(EDITED_LAYER, lm="tiny"),
    "p_rome": lambda: PromptOnlyROME(EDITED_LAYER, lm="tiny"),
    "nas": lambda: ROME(EDITED_LAYER, lm="tiny", value=ValueSearchOptions(anchor=2.0)),
    "memit": lambda: MEMIT(layers=LAYERS, lm="tiny", history=True),
    "memit-rect": lambda: MEMIT(layers=LAYERS, lm="tiny", transform=RECT()),
    "memit-prune": lambda: MEMIT(layers=LAYERS, lm="tiny", transform=PRUNE()),
    "memit-sphere": lambda: MEMIT(layers=LAYERS, lm="tiny", transform=SPHERE()),
    "emmet": lambda: EMMET(EDITED_LAYER, lm="tiny"),
    "alpha_edit": lambda: AlphaEdit(0.02, layers=LAYERS, lm="tiny"),
    "encore": lambda: ENCORE(layers=LAYERS, lm="tiny"),
    "rls_edit": lambda: RLSEdit(layers=LAYERS, lm="tiny"),
}
OTHERS = {
    "ft": lambda: FineTuning(layers=[EDITED_LAYER], lm="tiny", steps=3),
    "locft-bf": lambda: LocalizedFineTuning(layers=[EDITED_LAYER], lm="tiny"),
    "ultra_edit": lambda: UltraEdit(LAYERS, lm="tiny"),
}


def told(editor: Editor) -> Iterator[float]:
    """What two edits in sequence, and two single ones watched together, do to the model."""
    yield from editor.watch(TEXTS).nll.tolist()
    for request in REQUESTS[:2]:
        editor.make_edit([request])
        assert editor.record["status"] == "applied"
        yield from (value for value in editor.judge(request).values() if isinstance(value, float))
        yield from editor.watch(TEXTS).nll.tolist()
    editor.undo()
    yield from editor.watch(TEXTS).nll.tolist()
    editor.restore()
    editor.make_ahead([[request] for request in REQUESTS[1:3]])
    for made in editor.sweep.made:
        editor.remake(editor.sweep.find(made.requests))
        scores = editor.sweep.watch(TEXTS, editor.watch)
        yield from [] if scores is None else scores.nll.tolist()
        editor.restore()


def assert_same_elsewhere(editor: Editor) -> None:
    here = list(told(editor))
    with SecondDevice():
        editor.to(NAME)
        editor.prepare()
        assert editor.lm.device.type == editor.device.type == NAME
        assert list(told(editor)) == pytest.approx(here, rel=1e-4)


def test_a_tensor_that_was_forgotten_on_the_cpu_is_found():
    with SecondDevice(), pytest.raises(RuntimeError):
        torch.nn.functional.linear(torch.ones(2, 2, device=NAME), torch.ones(2, 2))


def test_every_family_is_made_and_edited_elsewhere(family, tmp_path):
    save_tiny(tmp_path, family)
    here, there = (ROME(EDITED_LAYER, lm=str(tmp_path), second_moment="identity") for _ in "ab")
    here.configure_model()
    here.prepare()
    with SecondDevice():
        with torch.device(NAME):  # as a Trainer does for a GPU
            there.configure_model()
        there.to(NAME)
        there.prepare()
        found = list(told(there))
    assert found == pytest.approx(list(told(here)), rel=1e-4)


@pytest.mark.parametrize("name", [*KEY_VALUE, *OTHERS])
def test_every_method_is_made_elsewhere(name, tmp_path):
    save_tiny(tmp_path, "gpt2")
    editor = (KEY_VALUE | OTHERS)[name]()
    editor.lm_name = str(tmp_path)
    with SecondDevice(), torch.device(NAME):
        editor.configure_model()
    editor.to(NAME)
    assert {weight.device.type for weight in editor.lm.parameters()} == {NAME}


@pytest.mark.parametrize("name", KEY_VALUE)
def test_every_method_edits_where_the_model_is(name):
    assert_same_elsewhere(ready(KEY_VALUE[name](), tiny_model("gpt2")))


@pytest.mark.parametrize("name", OTHERS)
def test_methods_without_values_do_too(name):
    editor = OTHERS[name]()
    editor.attach(tiny_model("gpt2"), tiny_tokenizer())
    editor.prepare()
    assert_same_elsewhere(editor)


def test_mend_does_too(tmp_path):
    lm = tiny_model("gpt2")
    assert_same_elsewhere(editor_with(lm, trained(lm), tmp_path))


def test_second_moments_are_counted_where_the_model_is(tmp_path):
    save_tiny(tmp_path, "gpt2")
    module = KeyStatistics(str(tmp_path), tokens=300, window=7, output=str(tmp_path / "moments"))
    module.configure_model()

    def moments() -> list[torch.Tensor]:
        module.on_test_start()
        module.add([[3, 14, 15, 92], [65, 35, 89, 79, 32, 38]])
        return [running.total().cpu() for running in module.sums.values()]

    here = moments()
    with SecondDevice():
        module.to(NAME)
        torch.testing.assert_close(moments(), here, rtol=1e-5, atol=1e-5)
