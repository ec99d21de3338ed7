from copy import deepcopy

import pytest
import torch

from lightning_modules.editing import transforms
from lightning_modules.editing.transforms import PRUNE, RECT, SPHERE, UpdateTransform
from lightning_modules.functional.update_transforms import (
    largest_singular_value,
    prune,
    rect,
    sphere,
)
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ConsistentROME
from tests.batches import REQUESTS, check_resumed, check_undone, ready, weights
from tests.tiny import tiny_config, tiny_model


def memit(transform: UpdateTransform | None, layers=(0, 1), weight: float = 1e-3) -> MEMIT:
    return MEMIT(weight, layers=layers, lm="tiny", transform=transform)


def raw_updates(editor: MEMIT) -> list[torch.Tensor]:
    """Collects what the method yields, as the transform receives it."""
    seen: list[torch.Tensor] = []
    transform = editor.transform

    def noted(update, weight, original, history):
        seen.append(update.dense())
        return transform(update, weight, original, history)

    editor.transform = noted
    return seen


def test_rect_changes_its_share_of_entries_and_keeps_them_as_they_were():
    editor = ready(memit(RECT(0.4), [1]), tiny_model("gpt2"))
    raw = raw_updates(editor)
    (before,) = weights(editor)
    editor.make_edit(REQUESTS)
    change = weights(editor)[0] - before
    assert int((change != 0).sum()) == round(0.4 * change.numel())
    torch.testing.assert_close(change, rect(raw[0], before), rtol=1e-3, atol=1e-6)


def test_upper_layer_makes_up_for_what_rect_left_out_below():  # B36
    plain, sparse = (ready(memit(t), tiny_model("gpt2")) for t in (RECT(1.0), RECT(0.4)))
    updates = [raw_updates(editor) for editor in (plain, sparse)]
    for editor in (plain, sparse):
        editor.make_edit(REQUESTS)
    (low, high), (same_low, other_high) = updates
    torch.testing.assert_close(low, same_low)
    assert (high - other_high).norm() > 1e-2 * high.norm()


def test_prune_leaves_the_original_plus_the_pruned_sum_of_raw_updates():  # B17
    editor = ready(memit(PRUNE(), [1], 1e-6), tiny_model("gpt2"))
    raw = raw_updates(editor)
    (original,) = weights(editor)
    for count, request in enumerate(REQUESTS, 1):
        editor.make_edit([request])
        total = sum(raw[:count])
        expected = prune(total, original)
        assert (weights(editor)[0] - original - expected).norm() < 1e-5 * expected.norm()
    assert torch.linalg.matrix_norm(total, 2) > torch.linalg.matrix_norm(original, 2)
    assert (expected - total).norm() > 1e-2 * total.norm()


def test_prune_leaves_small_updates_alone():
    plain, pruned = (ready(memit(t, weight=1e6), tiny_model("gpt2")) for t in (None, PRUNE()))
    for editor in (plain, pruned):
        editor.make_edit(REQUESTS)
    for one, other in zip(weights(plain), weights(pruned), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sphere_keeps_the_change_off_the_rows_of_the_weight(family):
    editor = ready(memit(SPHERE(0.5, 1.0), [1]), tiny_model(family))
    (before,) = weights(editor)
    editor.make_edit(REQUESTS)
    change = weights(editor)[0] - before
    rows = torch.nn.functional.normalize(before, dim=1)
    leading = torch.linalg.svd(rows).Vh[0]
    assert change.norm() > 0
    assert (change @ leading).norm() < 1e-4 * change.norm()


def test_sphere_projects_inputs_of_a_square_transposed_weight():  # B21
    lm = type(tiny_model("gpt2"))(tiny_config("gpt2", n_inner=32)).requires_grad_(False).eval()
    editor = ready(memit(SPHERE(0.5, 1.0), [1]), lm)
    (before,) = weights(editor)  # (out, in), the module holds (in, out)
    editor.make_edit(REQUESTS)
    change = weights(editor)[0] - before
    inputs = torch.linalg.svd(torch.nn.functional.normalize(before, dim=1)).Vh[0]
    outputs = torch.linalg.svd(torch.nn.functional.normalize(before, dim=0)).U[:, 0]
    assert (change @ inputs).norm() < 1e-4 * change.norm()
    assert (outputs @ change).norm() > 1e-2 * change.norm()


def test_sphere_leaves_a_low_rank_update_low_rank_and_equals_the_dense_one():
    editor = ready(memit(SPHERE(), [1]), tiny_model("gpt2"))
    seen = raw_updates(editor)
    (before,) = weights(editor)
    editor.make_edit(REQUESTS)
    (update,) = editor.applied
    assert update.left.shape[1] == update.right.shape[0] == len(REQUESTS)
    expected = sphere(seen[0], before, 0.5, 0.8)
    torch.testing.assert_close(update.dense(), expected, rtol=1e-6, atol=1e-9)


def test_prune_finds_the_original_weights_limit_once(monkeypatch):
    counted = []
    monkeypatch.setattr(
        transforms,
        "largest_singular_value",
        lambda weight: counted.append(1) or largest_singular_value(weight),
    )
    editor = ready(memit(PRUNE(), [1]), tiny_model("gpt2"))
    for request in REQUESTS:
        editor.make_edit([request])
    assert len(counted) == 1


@pytest.mark.parametrize("transform", [RECT, PRUNE, SPHERE])
def test_transform_serves_any_method(tiny_gpt2, transform):
    lm = deepcopy(tiny_gpt2)
    editor = ready(ConsistentROME(1, lm="tiny", transform=transform()), lm)
    before = weights(editor)
    editor.make_edit(REQUESTS[:2])
    assert editor.record["status"] == "applied"
    assert not torch.equal(weights(editor)[0], before[0])
    assert all(update.weight == editor.edited_weights()[0] for update in editor.applied)


@pytest.mark.parametrize("transform", [RECT, PRUNE, SPHERE])
def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny_gpt2, transform):  # B18
    check_resumed(lambda: memit(transform(), weight=1e-6), tiny_gpt2)


def test_undone_edit_leaves_no_trace_in_the_sum():
    check_undone(ready(memit(PRUNE(), weight=1e-6), tiny_model("gpt2")))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (RECT(0.0), r"keep must lie in \(0, 1\], got 0"),
        (SPHERE(1.0), "energy must lie between 0 and 1, got 1"),
        (SPHERE(0.5, 2.0), r"strength must lie in \(0, 1\], got 2"),
    ],
)
def test_bad_share_is_refused(tiny_gpt2, transform, message):
    with pytest.raises(ValueError, match=message):
        ready(memit(transform), deepcopy(tiny_gpt2)).make_edit(REQUESTS[:1])
