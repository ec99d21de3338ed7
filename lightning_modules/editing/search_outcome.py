"""What came of a value search: its figures, and a layer where it would have converged."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..functional.value_search import FoundValue
from ..language_model.values import Located, Recorded, search_values
from .search import ValueSearch

SHORT = 10  # evaluations of a search that only tries out a layer
DEPTHS = (3 / 4, 1 / 2, 1 / 4)  # of the layer that failed, nearest first


def search_figures(search: ValueSearch, located: Located, found: FoundValue) -> dict[str, Any]:
    """Figures of one request's search for the journal; ``reason`` says what was not reached."""
    loss, steps = found.losses[-1], len(found.losses)
    figures: dict[str, Any] = {"value_loss": loss, "value_steps": steps, **located.figures}
    failed = not found.converged and loss >= search.options.goal
    figures["value_unconverged"] = int(failed)
    if search.anchor is not None:
        figures |= {"anchor": search.anchor, "value_scale": found.scale}
    reasons = [
        f"value search ended at loss {loss:.3g}, above its goal {search.options.goal:g}"
    ] * search.unmet(found)
    reasons += [unlearnt(search, located, found)] * failed
    return figures | ({"reason": "; ".join(reasons)} if reasons else {})


def unlearnt(search: ValueSearch, located: Located, found: FoundValue) -> str:
    """Why a search failed, in words: how little it changed, and whether its bound held it back."""
    before, after = math.exp(-found.losses[0]), math.exp(found.target_log_prob)
    why = (
        f"it did not converge: in layer {search.layer} the target's probability per token went "
        f"only from {before:.2g} to {after:.2g}"
    )
    here = float(located.values[0].norm())
    bound = search.options.clamp * here
    held_back = search.anchor is None and float(found.change.norm()) > 0.99 * bound
    if held_back and len(located.values) > 1:
        others = float(located.values[1:].norm(dim=1).mean())
        why += (
            f", with the change at its bound of {search.options.clamp:g} times the value's norm, "
            f"which is {here:.2g} in the plain prompt and {others:.2g} behind contexts"
        )
    return why


def learnable_layer(
    search: ValueSearch, recorded: Callable[..., Recorded], layer: int
) -> int | None:
    """The nearest of a few layers below in which a short search converges; None if in none.

    Args:
        search: whose model and options to use.
        recorded: records the texts of one request for a layer.
        layer: where the search failed.
    """
    options = replace(search.options, steps=min(SHORT, search.options.steps))
    for below in dict.fromkeys(int(share * layer) for share in DEPTHS):
        if below == layer:
            continue
        (found,) = search_values(search.lm, below, recorded(layer=below), options)
        if found.converged:
            return below
    return None
