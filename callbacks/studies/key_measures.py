"""Distances between the keys of two groups of requests."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import silhouette_samples
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from lightning_modules.language_model.keys import Keyed

GROUPS = ("collapse", "normal")


def members(
    keyed: Sequence[Keyed], hard: Sequence[bool], group: str, kind: str
) -> list[tuple[Keyed, Tensor]]:
    """A group's requests and their keys of a kind; a first token is not the subject's own."""
    return [
        (one, one.keys[kind])
        for one, is_hard in zip(keyed, hard, strict=True)
        if GROUPS[not is_hard] == group and kind in one.keys
        if not (kind == "first" and one.begins)
    ]


def clouds_of(keyed: Sequence[Keyed], hard: Sequence[bool]) -> dict[tuple[str, str], Tensor]:
    """Keys ``(n, f)`` by group and kind; only those that exist."""
    kinds = dict.fromkeys(kind for one in keyed for kind in one.keys)
    found = {(g, kind): members(keyed, hard, g, kind) for g in GROUPS for kind in kinds}
    return {name: torch.stack([key for _, key in part]) for name, part in found.items() if part}


def geometry(clouds: dict[tuple[str, str], Tensor]) -> dict[str, Any]:
    """Measures of the keys by group; absent if a group or a kind of key is.

    ``cosine``, ``distance`` and ``distance_relative`` are means, over the requests, between plain
    and mean key, the last in units of the mean key's norm; ``denominator`` is the mean of
    ``|u · kᵘ|`` with ``u`` the direction of unit length, ``denominator_consistent`` that of
    ``|u · k̄|``. The others compare directions, that is by cosine: see :func:`separation`.
    """
    found: dict[str, Any] = {"requests": {g: len(clouds.get((g, "plain"), ())) for g in GROUPS}}
    for group in GROUPS:
        plain, mean, direction = (
            clouds.get((group, kind)) for kind in ("plain", "mean", "direction")
        )
        figures: dict[str, Tensor] = {}
        if plain is not None and mean is not None:
            gap = (plain - mean).norm(dim=1)
            figures |= {"cosine": F.cosine_similarity(plain, mean), "distance": gap}
            figures["distance_relative"] = gap / mean.norm(dim=1)
        if plain is not None and mean is not None and direction is not None:
            figures["denominator"] = (direction * plain).sum(1).abs()
            figures["denominator_consistent"] = (direction * mean).sum(1).abs()
        for name, values in figures.items():
            found.setdefault(name, {})[group] = float(values.double().mean())
    return found | separation(clouds)


def separation(clouds: dict[tuple[str, str], Tensor]) -> dict[str, Any]:
    """Whether the collapse plain keys form a separate cluster, and which keys are in it.

    ``silhouette`` is their mean silhouette; all normal plain keys and all mean keys form the other
    cluster. ``first`` (first tokens of normal prompts) and ``prefixed`` (collapse keys after a
    context) hold ``nearest_collapse``, the share whose nearest plain key is a collapse one, and the
    mean cosine with the plain keys of each group.
    """
    hard, normal = (clouds.get((group, "plain")) for group in GROUPS)
    if hard is None or normal is None:
        return {}
    found: dict[str, Any] = {}
    if len(hard) > 1:
        means = [clouds[group, "mean"] for group in GROUPS if (group, "mean") in clouds]
        points = torch.cat([hard, normal, *means]).numpy()
        labels = [number < len(hard) for number in range(len(points))]
        silhouettes = silhouette_samples(points, labels, metric="cosine")[: len(hard)]
        found["silhouette"] = float(silhouettes.mean())
    plain = torch.cat([hard, normal]).numpy()
    nearest = KNeighborsClassifier(1, metric="cosine")
    nearest.fit(plain, [number < len(hard) for number in range(len(plain))])
    for name in (("normal", "first"), ("collapse", "prefixed")):
        if name in clouds:
            keys = clouds[name].numpy()
            found[name[1]] = {
                "nearest_collapse": float(nearest.predict(keys).mean()),
                "cosine_collapse": float(cosine_similarity(keys, hard.numpy()).mean()),
                "cosine_normal": float(cosine_similarity(keys, normal.numpy()).mean()),
            }
    return found
