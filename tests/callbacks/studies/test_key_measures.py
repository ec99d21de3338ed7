import numpy as np
import pytest
import torch

from callbacks.studies.key_measures import clouds_of, geometry, separation
from data_modules.records import EditRequest
from lightning_modules.language_model.keys import Keyed

CHANCE = torch.Generator().manual_seed(0)


def points(number, center):
    """Near a center, ``(n, 4)``."""
    return torch.tensor(center).float() + 0.1 * torch.randn(number, 4, generator=CHANCE)


@pytest.fixture
def clouds():
    """Collapse plain keys on an axis of their own; all else on another."""
    return {
        ("collapse", "plain"): points(5, [1, 0, 0, 0]),
        ("normal", "plain"): points(7, [0, 3, 0, 0]),
        ("collapse", "mean"): points(5, [0, 2, 1, 0]),
        ("normal", "mean"): points(7, [0, 3, 0, 0]),
        ("collapse", "direction"): torch.nn.functional.normalize(points(5, [0, 1, 0, 0])),
        ("collapse", "prefixed"): points(5, [0, 2, 0, 1]),
        ("normal", "first"): points(7, [2, 0, 0, 0]),
    }


def cosine(one, other):
    return float(one @ other / (one.norm() * other.norm()))


def test_means_are_those_of_one_request_after_another(clouds):
    found = geometry(clouds)
    plain, mean = clouds["collapse", "plain"], clouds["collapse", "mean"]
    direction = clouds["collapse", "direction"]
    pairs = list(zip(plain, mean, direction, strict=True))
    slow = {
        "cosine": [cosine(k, m) for k, m, _ in pairs],
        "distance": [float((k - m).norm()) for k, m, _ in pairs],
        "distance_relative": [float((k - m).norm() / m.norm()) for k, m, _ in pairs],
        "denominator": [abs(float(u @ k)) for k, _, u in pairs],
        "denominator_consistent": [abs(float(u @ m)) for _, m, u in pairs],
    }
    assert found["requests"] == {"collapse": 5, "normal": 7}
    for name, values in slow.items():
        assert found[name]["collapse"] == pytest.approx(np.mean(values), rel=1e-5)
    assert found["denominator"].keys() == {"collapse"}  # the others have no direction


def test_silhouette_is_that_of_its_definition(clouds):
    hard = clouds["collapse", "plain"]
    rest = torch.cat([clouds[n] for n in (("normal", "plain"), ("collapse", "mean"))])
    rest = torch.cat([rest, clouds["normal", "mean"]])
    own = [sum(1 - cosine(k, o) for o in hard) / 4 for k in hard]  # to itself the distance is 0
    other = [np.mean([1 - cosine(k, o) for o in rest]) for k in hard]
    slow = np.mean([(b - a) / max(a, b) for a, b in zip(own, other, strict=True)])
    assert separation(clouds)["silhouette"] == pytest.approx(slow, abs=1e-5)
    assert slow > 0.9


def test_keys_are_with_the_plain_keys_they_point_to(clouds):
    found = separation(clouds)
    assert found["first"]["nearest_collapse"] == 1
    assert found["prefixed"]["nearest_collapse"] == 0
    for kind, group in (("first", "normal"), ("prefixed", "collapse")):
        for plain in ("collapse", "normal"):
            each = [cosine(k, o) for k in clouds[group, kind] for o in clouds[plain, "plain"]]
            assert found[kind][f"cosine_{plain}"] == pytest.approx(np.mean(each), abs=1e-5)


def test_lengths_do_not_matter_to_what_compares_directions(clouds):
    scaled = {name: 5 * cloud for name, cloud in clouds.items()}
    one, other = separation(clouds), separation(scaled)
    assert one["silhouette"] == pytest.approx(other["silhouette"], abs=1e-5)
    assert one["prefixed"] == pytest.approx(other["prefixed"], abs=1e-5)


@pytest.mark.parametrize("group", ["collapse", "normal"])
def test_what_a_missing_group_would_tell_is_absent(clouds, group):
    left = {name: cloud for name, cloud in clouds.items() if name[0] == group}
    found = geometry(left)
    assert found["requests"] == {"collapse": 0, "normal": 0} | {group: len(left[group, "plain"])}
    assert found["cosine"].keys() == {group}
    assert not {"silhouette", "first", "prefixed"} & found.keys()


def test_a_single_collapse_key_has_no_silhouette(clouds):
    clouds["collapse", "plain"] = clouds["collapse", "plain"][:1]
    del clouds["collapse", "mean"]
    assert "silhouette" not in separation(clouds)


def test_requests_are_told_apart_by_group():
    keyed = [
        Keyed(EditRequest(n, "{} is", "He", "it"), n == 0, {"plain": torch.full((2,), float(n))})
        for n in range(3)
    ]
    clouds = clouds_of(keyed, [True, False, False])
    assert clouds["collapse", "plain"].tolist() == [[0, 0]]
    assert clouds["normal", "plain"].tolist() == [[1, 1], [2, 2]]


def test_a_first_token_that_is_the_subject_is_no_first_token_beside_it():
    request = EditRequest(1, "{} is", "He", "it")
    keys = {"plain": torch.zeros(2), "first": torch.ones(2)}
    keyed = [Keyed(request, begins, keys) for begins in (True, False, False)]
    clouds = clouds_of(keyed, [False] * 3)
    assert len(clouds["normal", "plain"]) == 3
    assert len(clouds["normal", "first"]) == 2
