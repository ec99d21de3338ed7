"""The table that ends a ``validate``: perplexity and tasks, beside the unedited model's."""

import math
from collections.abc import Mapping

from .retention_table import COLUMNS, percent

ROWS = {  # what a figure says, in the order of the table
    "perplexity": "perplexity, mean of the watched texts",
    "perplexity_bos": "the same behind the first token",
    "perplexity_pooled": "perplexity, all their tokens together",
    "log_perplexity": "logarithm of the first row",
}


def validation_table(unedited: Mapping[str, float], edited: Mapping[str, float]) -> str:
    """A row per figure; percentages for tasks.

    Args:
        unedited: the unedited model's figures by name, tasks as ``tasks/NAME``; empty if unknown.
        edited: the edited model's; empty if nothing is edited.
    """
    found = [*(edited or unedited)]
    lines = [COLUMNS.format("", "unedited", "edited" if edited else "", "").rstrip()]
    for name in [*(name for name in ROWS if name in found), *(n for n in found if n not in ROWS)]:
        show = percent if name.startswith("tasks/") else "{:.4g}".format
        row = [show(figures[name]) if name in figures else "" for figures in (unedited, edited)]
        lines.append(COLUMNS.format(ROWS.get(name, name), *row, "").rstrip())
    return "\n".join(lines)


def validation_sentence(
    unedited: Mapping[str, float], edited: Mapping[str, float], limit: float | None
) -> str:
    """The perplexity, and whether it is a collapse.

    Args:
        unedited: as above.
        edited: as above.
        limit: perplexity above which the model has collapsed; None if there is none.
    """
    if not edited:
        return f"Nothing is edited: the unedited model's perplexity is {unedited['perplexity']:.4g}"
    found, sentence = edited["perplexity"], "The edited model's perplexity is {:.4g}"
    if "perplexity" not in unedited:
        return sentence.format(found)
    sentence = f"{sentence.format(found)}, the unedited one's {unedited['perplexity']:.4g}"
    if limit is None:
        return sentence
    collapsed = not math.isfinite(found) or found > limit
    return f"{sentence}: {'a collapse, above' if collapsed else 'no collapse, below'} {limit:.4g}"
