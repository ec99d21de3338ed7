"""Methods in closed form against what the published code computes (figures kept elsewhere)."""

import pytest
import torch

from lightning_modules.functional.rank_one import factorize
from lightning_modules.methods.rome import ConsistentROME, PromptOnlyROME
from tests.published import METHODS, Published

# AlphaEdit's authors solve, and EMMET's invert, in float32
WITHIN = {"values": 1e-5, "keys": 1e-5, "losses": 1e-4, "changes": 1e-5}
CHANGES = {"alphaedit": 2e-4, "nas": 2e-4, "emmet": 2e-4}
QUICK = {("memitseq", "seq"), ("nas", "one"), ("emmet", "eight"), ("encore4", "eight")}


@pytest.fixture(scope="module")
def published(shared_data):
    return Published(shared_data)


@pytest.mark.parametrize(
    ("method", "scenario"),
    [
        pytest.param(
            method, scenario, marks=() if (method, scenario) in QUICK else pytest.mark.slow
        )
        for method in METHODS
        for scenario in ("one", "first", "eight", "seq")
    ],
)
def test_edits_equal_the_published_ones(published, method, scenario):
    found = published.differences(method, scenario)
    assert "changes" in found
    within = WITHIN | {"changes": CHANGES.get(method, WITHIN["changes"])}
    assert {name: value for name, value in found.items() if value > within[name]} == {}


@pytest.mark.parametrize("moment", ["estimated", "identity"])
@pytest.mark.parametrize("case", [0, 10])
@pytest.mark.parametrize(("name", "method"), [("r", ConsistentROME), ("p", PromptOnlyROME)])
def test_r_rome_and_p_rome_equal_the_published_ones(published, name, method, case, moment):
    editor = method(published.rome["hyper"]["layer"], lm=published.lm)
    editor.configure_model()
    editor.contexts.templates = published.rome["contexts"]
    factor = factorize(published.moment) if moment == "estimated" else None
    editor.factors = {editor.value_layer: factor}
    (update,) = editor.edit([published.requests[case]])
    left, right = (published.r_p_rome[f"{name}.{moment}.case{case}.{side}"] for side in "vu")
    expected = torch.outer(left, right).double()
    assert (update.dense() - expected).norm() < 1e-4 * expected.norm()
