"""Values of many requests at once: which requests count, and their figures for the journal."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from data_modules.records import EditRequest

from ..functional.value_search import FoundValue
from ..language_model.values import Located
from .key_value import KeyValueEditor


class Batch(NamedTuple):
    """Requests that do not contradict each other, with the values found for them.

    Attributes:
        requests: n.
        located: their keys and values in every context.
        found: the changes of those values.
    """

    requests: list[EditRequest]
    located: list[Located]
    found: list[FoundValue]

    def wanted(self) -> Tensor:
        """Target values at the plain prompts' subjects, ``(d, n)``, float32."""
        pairs = zip(self.located, self.found, strict=True)
        return torch.stack([where.values[0].float() + to.change for where, to in pairs], 1)


def counting(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests without those that a later one with the same subject and prompt replaces."""
    return list({(request.subject, request.prompt): request for request in requests}.values())


def seek_batch(editor: KeyValueEditor, requests: Sequence[EditRequest]) -> Batch:
    """Searches the values of all requests that count; their figures go to the editor's record.

    Of requests with the same subject and prompt the last one counts; if the others want another
    target, the journal says so.

    Raises:
        FloatingPointError: if the loss of a search is not finite.
    """
    last = {(request.subject, request.prompt): request for request in requests}
    kept = counting(requests)
    reasons = [
        f"case {request.case_id} was left out: case {last[fact].case_id} of the same batch "
        f"wants {last[fact].target_new!r} of the same subject and prompt"
        for request in requests
        if last[fact := (request.subject, request.prompt)].target_new != request.target_new
    ]
    located, found = (list(part) for part in zip(*editor.seek(kept), strict=True))
    batch = Batch(kept, located, [value.checked() for value in found])
    editor.record |= batch_figures(editor, batch, reasons)
    return batch


def batch_figures(
    editor: KeyValueEditor, batch: Batch, reasons: list[str]
) -> dict[str, float | str]:
    """Means of the searches' figures, and all warnings about them."""
    rows = [editor.figures(*pair) for pair in zip(batch.located, batch.found, strict=True)]
    unmet = [row.pop("reason") for row in rows if "reason" in row]
    if len(rows) == 1:
        reasons += unmet
    elif unmet:
        reasons.append(
            f"{len(unmet)} of {len(rows)} value searches ended above their goal "
            f"{editor.search.options.goal:g}"
        )
    figures = {name: mean(row[name] for row in rows) for name in rows[0]}
    return figures | ({"reason": "; ".join(reasons)} if reasons else {})
