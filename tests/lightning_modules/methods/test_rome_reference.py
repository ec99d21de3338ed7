"""Parity with the published implementation: figures it computed, kept outside this project."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_modules.records import EditRequest, WatchedText
from lightning_modules.functional.rank_one import factorize
from lightning_modules.functional.value_search import FoundValue, ValueSearchOptions
from lightning_modules.methods.rome import ROME, ConsistentROME, RankOneEditor

POLICIES = {"original": ROME, "consistent": ConsistentROME}
QUICK = (0, 1, 10, 16)  # two cases with the subject at position 0, two with it elsewhere


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict:
    return json.loads((shared_data / "golden" / "rome_reference.json").read_text())


@pytest.fixture(scope="module")
def tensors(shared_data: Path) -> dict[str, torch.Tensor]:
    return load_file(shared_data / "golden" / "rome_reference.safetensors")


@pytest.fixture(scope="module")
def editors(shared_data: Path, reference: dict, tensors: dict) -> dict[tuple, RankOneEditor]:
    hyper = reference["hyper"]
    options = ValueSearchOptions(
        steps=hyper["steps"],
        learning_rate=hyper["lr"],
        weight_decay=hyper["weight_decay"],
        clamp=hyper["clamp"],
        kl_weight=hyper["kl"],
        goal=hyper["stop"],
    )
    editors = {}
    for policy, method in POLICIES.items():
        editor = method(hyper["layer"], value=options, lm=str(shared_data / "models/nano_gpt2"))
        editor.configure_model()
        editor.contexts.templates = reference["contexts"]
        for moment in ("identity", "estimated"):
            editors[policy, moment] = editor
    return editors


@pytest.fixture(scope="module")
def found() -> dict[int, FoundValue]:
    """The value of each case, which neither the policy nor the moment changes."""
    return {}


def rows() -> Iterator:
    file = Path(__file__).parents[4] / "shared/data/golden/rome_reference.json"
    if file.exists():
        for row in json.loads(file.read_text())["cases"]:
            marks = () if row["case"] in QUICK else pytest.mark.slow
            yield pytest.param(row, marks=marks, id=name(row))


def name(row: dict) -> str:
    return f"case{row['case']}.{row['policy']}.{row['moment']}"


def test_every_row_is_there(reference: dict) -> None:
    assert len(reference["cases"]) == 96


@pytest.mark.parametrize("row", list(rows()))
def test_edit_equals_the_published_one(
    row: dict,
    editors: dict,
    tensors: dict,
    found: dict,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = editors[row["policy"], row["moment"]]
    estimated = row["moment"] == "estimated"
    factor = factorize(tensors["second_moment"]) if estimated else None
    editor.factors = {editor.value_layer: factor}
    request = EditRequest(
        row["case_id"], row["prompt"], row["subject"], row["target_new"], row["target_true"]
    )
    case, seek = row["case"], editor.seek

    def seek_once(requests: list[EditRequest]) -> list[tuple]:
        if case not in found:
            ((_, found[case]),) = seek(requests)
        return [(*editor.locate(requests), found[case])]

    monkeypatch.setattr(editor, "seek", seek_once)
    (update,) = editor.edit([request])

    close = {"rel": 1e-3}
    assert found[case].losses == pytest.approx(row["losses_rounded"], abs=1.6e-3)
    assert editor.record["denominator"] == pytest.approx(row["denominator"], **close)
    assert editor.record["numerator_norm"] == pytest.approx(row["numerator_norm"], **close)
    assert float(update.dense().norm()) == pytest.approx(row["update_norm"], **close)
    for ours, theirs in ((update.right[0], "u"), (update.left[:, 0], "v")):
        vector = tensors.get(f"{name(row)}.{theirs}")
        if vector is not None:
            assert float(torch.cosine_similarity(ours, vector.double(), 0)) > 0.99999
            assert float(ours.norm()) == pytest.approx(float(vector.norm()), **close)

    sentences = json.loads((shared_data / "me_ppl/ME-PPL_50.json").read_text())
    watched = WatchedText(list(range(50)), [sentence["Text"] for sentence in sentences])
    editor.apply_update(update)
    perplexity = float(editor.validation_step(watched, 0).nll.exp().mean())
    editor.restore()
    assert perplexity == pytest.approx(row["perplexity_after"], **close)
