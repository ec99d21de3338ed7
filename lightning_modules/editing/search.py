"""The value search: several requests together, ahead of their edits, compiled."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..functional.norm_anchor import anchored
from ..functional.value_search import FoundValue, ValueSearchOptions
from ..language_model.compilation import Compilation
from ..language_model.divided import Divided
from ..language_model.packing import Packs, require_bfloat16
from ..language_model.values import Located, Recorded, alike, search_values
from .replicas import Place

Record = Callable[[Sequence[EditRequest]], Recorded]
Sought = tuple[Located, FoundValue]
Told = Callable[[int, int, int], None]


class ValueSearch:
    """Finds the value that makes every context of a request answer with its target.

    ``told`` is called at each step with the number of values wanted, of those found, and the
    step's; at the end all are found.

    Args:
        options: how values are searched.
        together: most requests searched in one batch; bounds memory.
        compiled: whether the model is compiled for the search.
    """

    def __init__(self, options: ValueSearchOptions, together: int, compiled: bool) -> None:
        self.options = options
        self.together = together
        self.compiled = compiled
        self.compilation: Compilation | None = None
        self.anchor: float | None = None
        self.told: Told = untold
        self._ahead: dict[EditRequest, Sought] = {}

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, layer: int) -> None:
        """Takes the model, and the layer at whose output values are searched."""
        self.lm, self.tokenizer, self.layer = lm, tokenizer, layer
        self.compilation = Compilation(lm) if self.compiled else None
        self.packs = self._packs()

    def _packs(self) -> Packs:
        """Keeps packed weights, in bfloat16 all of them.

        Raises:
            ValueError: if bfloat16 is wanted and does not apply.
        """
        if self.options.precision == "model":
            return Packs(torch.float32, self.options.packed * 2**30)
        if self.compiled:
            raise ValueError("value.precision bfloat16 does not apply to a compiled search")
        require_bfloat16(self.lm)
        return Packs(torch.bfloat16, math.inf)

    def seek(
        self, requests: Sequence[EditRequest], record: Record, share: Place, device: torch.device
    ) -> list[Sought]:
        """Each request's keys and values and the value found; devices share the requests.

        If there are fewer searches than devices, they may share each one's contexts.

        Args:
            requests: all of them.
            record: runs some of the requests in every context.
            share: which of the devices this is.
            device: of the results.
        """
        if all(request in self._ahead for request in requests):
            return [self._ahead[request] for request in requests]
        sought: dict[int, Sought] = {}
        parts = alike(self.tokenizer, requests, self.together)
        divided = self.options.divided and len(parts) < share.devices
        among = Divided(*share) if divided else Divided()
        for numbers in parts if divided else parts[share.rank :: share.devices]:
            recorded = record([requests[number] for number in numbers])
            at_step = partial(self.told, len(requests), len(sought))
            found = self._found(recorded, at_step, among)
            pairs = zip(recorded.located, found, strict=True)
            sought |= zip(numbers, pairs, strict=True)
        self.told(len(requests), len(requests), 0)
        sought = sought if divided else share.joined(sought, device)
        return [self.anchored(*sought[number]) for number in range(len(requests))]

    def located(self, requests: Sequence[EditRequest], record: Record) -> list[Located]:
        """Each request's keys and values, without a search; run together as for one."""
        found: dict[int, Located] = {}
        for numbers in alike(self.tokenizer, requests, self.together):
            part = record([requests[number] for number in numbers]).located
            found |= zip(numbers, part, strict=True)
        return [found[number] for number in range(len(requests))]

    def look_ahead(
        self, requests: Sequence[EditRequest], record: Record, share: Place, device: torch.device
    ) -> None:
        """Searches the values of coming edits together; each edit starts from the same model."""
        self.forget()
        self._ahead = dict(zip(requests, self.seek(requests, record, share, device), strict=True))

    def anchored(self, located: Located, found: FoundValue) -> Sought:
        """The value as found, or scaled so that the MLP's output has the anchor's norm (NAS)."""
        if self.anchor is None:
            return located, found
        output = located.output.double()
        wanted = output + found.change
        (scaled,) = anchored(wanted[None], self.anchor)
        scale = float(self.anchor / wanted.norm())
        return located, found._replace(change=(scaled - output).float(), scale=scale)

    def forget(self) -> None:
        """Drops the values searched ahead."""
        self._ahead = {}

    def parts(self, requests: Sequence[EditRequest]) -> list[Sequence[EditRequest]]:
        """The requests in parts that fit into memory."""
        return [requests[at : at + self.together] for at in range(0, len(requests), self.together)]

    def unmet(self, found: FoundValue) -> bool:
        """Whether a search ended above its goal."""
        return self.options.stop == "goal" and found.losses[-1] >= self.options.goal

    def _found(
        self, recorded: Recorded, at_step: Callable[[int], None], among: Divided
    ) -> list[FoundValue]:
        def search() -> list[FoundValue]:
            with self.packs.used(self.lm):
                return search_values(self.lm, self.layer, recorded, self.options, at_step, among)

        if self.packs.dtype == torch.bfloat16:
            require_bfloat16(self.lm)  # the Trainer may have moved it
        return search() if self.compilation is None else self.compilation(search)


def untold(wanted: int, found: int, step: int) -> None:
    """Tells nobody how far a search is."""
