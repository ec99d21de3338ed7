"""The position and depth of a fact in a model: token roles, windows and mean effects.

Causal tracing after Meng et al. 2022 (Locating and Editing Factual Associations in GPT), section 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
LAST_SUBJECT = ROLES.index("last subject token")
WIDEST, SHARE = 10, 5  # layers of the paper's window, of a model with 48; one part in so many


def token_roles(first: int, last: int, count: int) -> Tensor:
    """The role of each token of a prompt, ``(t,)``: its place in ``ROLES``, -1 before the subject.

    Each token has one role. The only token of a one-token subject is its last; if the subject ends
    the prompt, there is no last token of the prompt besides it.

    Args:
        first: index of the subject's first token.
        last: index of its last token.
        count: number of tokens.

    Raises:
        ValueError: if the subject is outside the prompt.
    """
    if not 0 <= first <= last < count:
        raise ValueError(f"the subject must lie in [0, {count}), got tokens {first} to {last}")
    roles = torch.full((count,), -1)
    roles[first:last] = ROLES.index("middle subject tokens")
    roles[first] = ROLES.index("first subject token")
    roles[last + 1 :] = ROLES.index("further tokens")
    roles[last + 1 : last + 2] = ROLES.index("first subsequent token")
    roles[-1] = ROLES.index("last token")
    roles[last] = LAST_SUBJECT
    return roles


def usual_window(depth: int) -> int:
    """Layers in which outputs are restored together: 10 as in the paper, a fifth if shallow."""
    return min(WIDEST, max(1, round(depth / SHARE)))


def window_around(layer: int, width: int, depth: int) -> range:
    """The layers of a window, cut at the model's ends; if even, one more below than above."""
    return range(max(0, layer - width // 2), min(depth, layer + (width + 1) // 2))


def mean_by_role(effects: Tensor, roles: Tensor) -> Tensor:
    """Mean effect ``(roles, layers)`` over the tokens of each role; NaN without any.

    Args:
        effects: ``(layers, t)``.
        roles: ``(t,)``, by :func:`token_roles`.
    """
    columns = [effects[:, roles == role].mean(1) for role in range(len(ROLES))]
    return torch.stack(columns)


def restored_range(effects: Sequence[float]) -> tuple[int, int]:
    """The layers around the peak of a curve where it stays at half the peak or above, both ends in.

    Args:
        effects: average indirect effect by layer.
    """
    curve = torch.tensor(effects)
    peak = int(curve.argmax())
    below = (curve < curve[peak] / 2).nonzero().flatten().tolist()
    low = max((layer for layer in below if layer < peak), default=-1) + 1
    high = min((layer for layer in below if layer > peak), default=len(curve)) - 1
    return low, high
