"""Figures of keys in two dimensions: principal components and t-SNE."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from ..watching.figures import ALARM, FAINT, INK, SHARP

SEED = 42  # of the papers' t-SNE
USUAL_PERPLEXITY = 30.0
FEWEST = 3  # points of a figure
SIGNS = {
    "plain": r"$k^u$",
    "mean": r"$\bar{k}$",
    "direction": r"$C^{-1}\bar{k}$",
    "first": "different first tokens",
    "prefixed": r"$k^u$ behind a prefix",
}
LOOKS = {  # of the plain keys and of any others, distinct without colours too
    ("collapse", True): {"marker": "x", "color": ALARM, "s": 36, "zorder": 3},
    ("normal", True): {"marker": ".", "color": FAINT, "s": 60, "zorder": 1},
    ("collapse", False): {"marker": "^", "facecolor": "none", "edgecolor": ALARM, "s": 40},
    ("normal", False): {"marker": "o", "facecolor": "none", "edgecolor": INK, "s": 34},
}


class Cloud(NamedTuple):
    """The keys of one kind of one group of requests.

    Attributes:
        group: ``collapse`` or ``normal``.
        kind: of the keys.
        points: ``(n, f)``.
    """

    group: str
    kind: str
    points: Tensor

    @property
    def label(self) -> str:
        """The legend's text."""
        return f"{SIGNS[self.kind]}, {self.group} ({len(self.points)})"


class Panel(NamedTuple):
    """The content of one panel.

    Attributes:
        kinds: group and kind of each cloud.
        unit: whether all points are scaled to length 1.
    """

    kinds: tuple[tuple[str, str], ...]
    unit: bool = False

    @property
    def title(self) -> str:
        """The panel's kinds, as symbols."""
        signs = list(dict.fromkeys(SIGNS[kind] for _, kind in self.kinds))
        return " and ".join(signs) + (", all of length 1" if self.unit else "")


PLAIN = (("collapse", "plain"), ("normal", "plain"))
VIEWS = {
    "subject": (
        Panel((*PLAIN, ("collapse", "mean"), ("normal", "mean"))),
        Panel((*PLAIN, ("collapse", "direction"), ("normal", "direction")), unit=True),
    ),
    "first_token": (
        Panel((*PLAIN, ("normal", "first"))),
        Panel((*PLAIN, ("normal", "first")), unit=True),
    ),
    "prefixed": (
        Panel((*PLAIN, ("collapse", "prefixed"))),
        Panel((*PLAIN, ("collapse", "prefixed")), unit=True),
    ),
}


def chosen(
    panels: Sequence[Panel], clouds: dict[tuple[str, str], Tensor]
) -> list[tuple[Panel, list[Cloud]]]:
    """The clouds of each panel that has more than plain keys.

    Many prompts have the same first token; its key is shown once.
    """
    found = [
        (panel, [cloud_of(name, clouds[name]) for name in panel.kinds if name in clouds])
        for panel in panels
    ]
    return [(panel, part) for panel, part in found if any(c.kind != "plain" for c in part)]


def cloud_of(name: tuple[str, str], points: Tensor) -> Cloud:
    """The points to draw of a group and a kind, ``(n, f)``."""
    return Cloud(*name, points.unique(dim=0) if name[1] == "first" else points)


def key_figure(panels: Sequence[tuple[Panel, list[Cloud]]], method: str, about: str) -> Figure:
    """Clouds of keys side by side.

    Args:
        panels: each with its clouds, at least ``FEWEST`` points in all.
        method: ``pca`` or ``tsne``.
        about: which requests are ``collapse``.
    """
    figure = Figure(figsize=(5.0, 5.0 * len(panels)), dpi=SHARP, layout="constrained")
    for axes, (panel, clouds) in zip(
        figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
    ):
        points = np.concatenate([cloud.points.numpy() for cloud in clouds])
        if panel.unit:
            points = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-30)
        flat = principal(axes, points) if method == "pca" else neighboring(axes, points)
        ends = np.cumsum([len(cloud.points) for cloud in clouds])
        for cloud, part in zip(clouds, np.split(flat, ends[:-1]), strict=True):
            look = LOOKS[cloud.group, cloud.kind == "plain"]
            axes.scatter(*part.T, label=cloud.label, linewidths=1.0, **look)
        axes.set_title(panel.title)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    figure.suptitle(f"collapse: {about}", fontsize="medium")
    return figure


def principal(axes: Axes, points: np.ndarray) -> np.ndarray:
    """The first two principal components, ``(n, 2)``; labels the axes with their shares."""
    found = PCA(n_components=2, random_state=SEED)
    flat = found.fit_transform(points)
    shares = [f"{share:.0%} of the variance" for share in found.explained_variance_ratio_]
    axes.set(xlabel=f"component 1 ({shares[0]})", ylabel=f"component 2 ({shares[1]})")
    return flat


def neighboring(axes: Axes, points: np.ndarray) -> np.ndarray:
    """t-SNE's plane, ``(n, 2)``; its perplexity is a third of the points, but 30 at most."""
    perplexity = min(USUAL_PERPLEXITY, (len(points) - 1) / 3)
    axes.set(xlabel=f"t-SNE 1 (perplexity {perplexity:.3g}, no unit)", ylabel="t-SNE 2 (no unit)")
    return TSNE(n_components=2, perplexity=perplexity, random_state=SEED).fit_transform(points)
