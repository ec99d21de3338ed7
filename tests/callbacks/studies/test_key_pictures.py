import numpy as np
import pytest
import torch

from callbacks.studies.key_pictures import LOOKS, VIEWS, Panel, chosen, key_figure

CHANCE = torch.Generator().manual_seed(0)
CLOUDS = {
    (group, kind): torch.randn(number, 6, generator=CHANCE) + shift
    for group, number, shift in (("collapse", 5, 4.0), ("normal", 8, 0.0))
    for kind in ("plain", "mean", "direction", "first", "prefixed")
}


def drawn(view, method, clouds=CLOUDS):
    """Of each panel: its axes, and label to points."""
    figure = key_figure(chosen(VIEWS[view], clouds), method, "all of them")
    return [
        (axes, {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections})
        for axes in figure.axes
    ]


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_every_key_of_the_view_is_a_point_of_its_group(method):
    (_, first), (_, second) = drawn("subject", method)
    counts = {label: len(points) for label, points in first.items()}
    assert counts == {
        "$k^u$, collapse (5)": 5,
        "$k^u$, normal (8)": 8,
        r"$\bar{k}$, collapse (5)": 5,
        r"$\bar{k}$, normal (8)": 8,
    }
    assert [label for label in second if "C^{-1}" in label] == [
        r"$C^{-1}\bar{k}$, collapse (5)",
        r"$C^{-1}\bar{k}$, normal (8)",
    ]


def test_principal_components_are_those_of_the_singular_value_decomposition():
    ((axes, points), _) = drawn("prefixed", "pca")
    kinds = (("collapse", "plain"), ("normal", "plain"), ("collapse", "prefixed"))
    rows = torch.cat([CLOUDS[kind] for kind in kinds]).double()
    left, spread, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    flat = np.concatenate(list(points.values()))
    for axis in (0, 1):
        slow = (left[:, axis] * spread[axis]).numpy()
        assert np.abs(np.abs(flat[:, axis]) - np.abs(slow)).max() < 1e-4
    share = float(spread[0] ** 2 / (spread**2).sum())
    assert axes.get_xlabel() == f"component 1 ({share:.0%} of the variance)"


def test_pictures_of_length_1_do_not_depend_on_lengths():
    stretched = {name: 7 * cloud for name, cloud in CLOUDS.items()}
    for view in ("first_token", "prefixed"):
        (_, raw), (_, unit) = drawn(view, "pca")
        (_, raw_again), (_, unit_again) = drawn(view, "pca", stretched)
        label = "$k^u$, normal (8)"
        assert np.abs(unit[label] - unit_again[label]).max() < 1e-4
        assert np.abs(7 * raw[label] - raw_again[label]).max() < 1e-3


def test_t_sne_is_the_same_each_time_and_its_perplexity_fits_the_points():
    (axes, once), _ = drawn("prefixed", "tsne")
    (_, again), _ = drawn("prefixed", "tsne")
    assert all(np.array_equal(once[label], again[label]) for label in once)
    assert axes.get_xlabel() == f"t-SNE 1 (perplexity {17 / 3:.3g}, no unit)"


def test_a_first_token_of_many_prompts_is_one_point():
    clouds = CLOUDS | {("normal", "first"): CLOUDS["normal", "first"][[0, 0, 1, 1, 1, 2, 2, 2]]}
    (_, points), _ = drawn("first_token", "pca", clouds)
    assert len(points["different first tokens, normal (3)"]) == 3


def test_every_group_has_a_marker_of_its_own():
    assert len({look["marker"] for look in LOOKS.values()}) == 4


@pytest.mark.parametrize("view", VIEWS)
def test_a_panel_with_plain_keys_alone_is_left_out(view):
    plain = {name: cloud for name, cloud in CLOUDS.items() if name[1] == "plain"}
    assert chosen(VIEWS[view], plain) == []


def test_a_group_that_is_not_there_is_left_out():
    normal = {name: cloud for name, cloud in CLOUDS.items() if name[0] == "normal"}
    ((panel, clouds), _) = chosen(VIEWS["subject"], normal)
    assert isinstance(panel, Panel)
    assert [(cloud.group, cloud.kind) for cloud in clouds] == [
        ("normal", "plain"),
        ("normal", "mean"),
    ]
