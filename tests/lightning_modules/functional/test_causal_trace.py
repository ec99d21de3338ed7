import math

import pytest
import torch

from lightning_modules.functional.causal_trace import (
    ROLES,
    mean_by_role,
    restored_range,
    token_roles,
    usual_window,
    window_around,
)


def names(first, last, count):
    return [ROLES[role] if role >= 0 else "" for role in token_roles(first, last, count)]


def test_each_token_has_its_role():
    assert names(1, 4, 9) == [
        "",
        "first subject token",
        "middle subject tokens",
        "middle subject tokens",
        "last subject token",
        "first subsequent token",
        "further tokens",
        "further tokens",
        "last token",
    ]


@pytest.mark.parametrize(
    ("place", "roles"),
    [
        ((0, 0, 2), ["last subject token", "last token"]),
        ((0, 1, 2), ["first subject token", "last subject token"]),
        ((1, 1, 4), ["", "last subject token", "first subsequent token", "last token"]),
        ((0, 0, 1), ["last subject token"]),
    ],
)
def test_short_prompts_lack_roles(place, roles):
    assert names(*place) == roles


@pytest.mark.parametrize("place", [(2, 1, 4), (0, 4, 4), (-1, 0, 4)])
def test_a_subject_outside_the_prompt(place):
    with pytest.raises(ValueError, match=r"the subject must lie in \[0, 4\)"):
        token_roles(*place)


@pytest.mark.parametrize(("depth", "width"), [(1, 1), (6, 1), (12, 2), (30, 6), (48, 10), (80, 10)])
def test_the_window_is_a_fifth_of_a_shallow_model(depth, width):
    assert usual_window(depth) == width


def test_windows_are_cut_off_at_the_ends():
    assert window_around(20, 10, 48) == range(15, 25)
    assert window_around(2, 10, 48) == range(7)
    assert window_around(47, 10, 48) == range(42, 48)
    assert [list(window_around(layer, 1, 3)) for layer in range(3)] == [[0], [1], [2]]


def test_means_are_over_the_tokens_of_a_role():
    effects = torch.tensor([[9.0, 1.0, 3.0, 4.0], [9.0, 5.0, 7.0, 8.0]])
    roles = torch.tensor([-1, 1, 1, 5])
    found = mean_by_role(effects, roles)
    assert found.shape == (len(ROLES), 2)
    assert found[1].tolist() == [2.0, 6.0]
    assert found[5].tolist() == [4.0, 8.0]
    assert all(math.isnan(value) for role in (0, 2, 3, 4) for value in found[role])


@pytest.mark.parametrize(
    ("curve", "ends"),
    [
        ([0.1, 0.4, 1.0, 0.6, 0.2, 0.9], (2, 3)),
        ([1.0, 0.5, 0.4], (0, 1)),
        ([0.0, 0.1, 0.3], (2, 2)),
        ([0.7], (0, 0)),
    ],
)
def test_the_range_holds_the_peak_down_to_its_half(curve, ends):
    assert restored_range(curve) == ends
