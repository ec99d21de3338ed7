"""Fine-tuning and transforms against what the published code computes (figures kept elsewhere)."""

import math

import pytest
import torch

from lightning_modules.functional.update_transforms import prune, rect, sphere
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.localized_fine_tuning import LocalizedFineTuning
from tests.published import Largest, Published, PublishedMEND

BASES = {"log": math.e, "log2": 2.0, "log1_5": 1.5, "log1_2": 1.2}
KINDS = {"weight_only": "weight", "as_published": "weight_and_bias"}
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def published(shared_data):
    return Published(shared_data)


def difference(ours, theirs) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("base", BASES)
def test_prune_equals_the_published_one(published, base):
    change, weight = (published.tensors[f"transforms.{name}"] for name in ("change", "weight"))
    found = prune(3 * change, weight, BASES[base])
    assert difference(found, published.tensors[f"prune.{base}"]) < 1e-5


@pytest.mark.parametrize(("energy", "strength"), [(0.5, 0.5), (0.5, 0.8), (0.8, 0.8)])
def test_sphere_equals_the_published_one(published, energy, strength):
    change, weight = (published.tensors[f"transforms.{name}"] for name in ("change", "weight"))
    found = sphere(change, weight, energy, strength)
    assert difference(found, published.tensors[f"sphere.{energy}.{strength}"]) < 1e-5


@pytest.mark.parametrize("percent", [20, 40])
def test_rect_equals_the_published_one(published, percent):
    change, weight = (published.tensors[f"transforms.{name}"] for name in ("change", "weight"))
    assert (
        difference(
            rect(change, weight, percent / 100), published.tensors[f"rect.original_{percent}"]
        )
        == 0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [5e-4, None])
@pytest.mark.parametrize(
    "scenario", ["one", pytest.param("eight", marks=SLOW), pytest.param("seq", marks=SLOW)]
)
def test_fine_tuning_equals_the_published_one(published, kind, radius, scenario):
    editor = FineTuning([1], radius=radius, parameters=KINDS[kind], lm=published.lm)
    editor.configure_model()
    probe, found = published.tensors["probe.1024"].double(), Largest()
    for number, batch in enumerate(published.batches(scenario, published.small["cases"])):
        editor.make_edit(batch)
        name = f"ft.{kind}.{radius or False}.{scenario}.{number}"
        weight, *bias = editor.applied
        found.note("changes", weight.dense().double() @ probe, published.tensors[f"{name}.sketch"])
        for update in bias:
            norm = torch.tensor(published.small["bias_norm"][name])
            found.note("bias norms", update.dense().norm(), norm)
    assert len(bias) == (kind == "as_published")
    assert max(found.values()) < 3e-4


@pytest.mark.parametrize(("scenario", "epochs", "size"), [("six", 4, 1), ("two", 25, 1)])
def test_localized_fine_tuning_equals_the_published_one(published, scenario, epochs, size):
    editor = LocalizedFineTuning([3], lm=published.lm)
    editor.configure_model()
    (requests,) = published.batches(scenario, published.small["cases"])
    losses = []
    for _ in range(epochs):
        for at in range(0, len(requests), size):
            editor.make_edit(requests[at : at + size])
            losses.append(editor.record["loss"])
    change = torch.stack([editor.edited.master(n) - editor.original[n] for n in editor.original])
    sketch = change[0].T.double() @ published.tensors["probe.1024"].double()
    expected = published.small["losses"][f"locft.{scenario}"]
    assert losses[: len(expected)] == pytest.approx(expected, rel=2e-3, abs=2e-4)
    assert difference(sketch, published.tensors[f"locft.{scenario}.sketch"]) < 1e-3


@pytest.fixture(scope="module")
def mend(published):
    editor = PublishedMEND(published)
    editor.configure_model()
    return editor


def test_moments_of_mend_are_the_published_ones(published, mend):
    moments = mend.of_gradients.moments
    deviation = (moments.squares / (moments.seen - 1)).sqrt()
    assert moments.seen == published.small["mend"]["k"]
    for ours, name in ((moments.mean, "mean"), (deviation, "std")):
        parts = [published.tensors[f"mend.state.{side}_{name}"] for side in "uv"]
        assert difference(ours, torch.cat(parts)) < 1e-5


@pytest.mark.parametrize("scenario", ["one", "first", "eight"])
def test_mend_equals_the_published_one(published, mend, scenario):
    (requests,) = published.batches(scenario, published.small["cases"])
    mend.make_edit(requests)
    (update,) = mend.applied
    mend.restore()
    change = update.dense().double()
    sketch = change @ published.tensors["probe.1024"].double()
    assert difference(sketch, published.tensors[f"mend.{scenario}.sketch"]) < 1e-4
    norm = published.small["norms"][f"mend.{scenario}"]
    assert float(change.norm()) == pytest.approx(norm, rel=1e-4)
