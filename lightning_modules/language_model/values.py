"""From requests to their values: contexts recorded once, then a search in the layers above."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..functional.value_search import Answers, FoundValue, ValueSearchOptions, value_search
from .buckets import Place, evened, remaining
from .divided import Divided
from .keys import edited_keys
from .suffixes import Suffixes, record_suffixes, suffix_logits
from .tokens import Span, collate, located_span

ESSENCE = "{} is a"


class Located(NamedTuple):
    """A request's keys and values in the edited layer.

    Attributes:
        keys: ``(c, f)``, in each context; the first is unprefixed.
        values: ``(c, d)``, likewise; a search changes them.
        output: ``(d,)``, of the MLP in the plain context.
        subject_position: of the subject's last token in the plain prompt; 0 is dangerous.
    """

    keys: Tensor
    values: Tensor
    output: Tensor
    subject_position: int

    @property
    def key_cosine(self) -> float:
        """Cosine of the unprefixed key and the mean key; far below 1 if ROME is dangerous."""
        return key_cosine(self.keys)

    @property
    def figures(self) -> dict[str, float]:
        """Indicators of a dangerous edit."""
        return {"key_cosine": self.key_cosine, "subject_position": self.subject_position}


def key_cosine(keys: Tensor) -> float:
    """Cosine of the first of keys ``(c, f)`` and their mean."""
    return float(F.cosine_similarity(keys[0].float(), keys.float().mean(0), 0))


class Recorded(NamedTuple):
    """The recorded texts of n requests: one per context each, and the essence prompt last.

    Attributes:
        requests: n.
        suffixes: of all texts, ``b = n (contexts + 1)``, request by request.
        values: ``(b, d)``, changed by a search: MLP outputs, or the residual stream after them.
        rows: ``(a,)``, the text of each target token.
        columns: ``(a,)``, the position of its logits, from the subject's last token on.
        targets: ``(a,)``, target tokens.
        weights: ``(a,)``, weight of each in its request's mean over contexts of means over tokens;
            0 for one that only fills up a shape.
        rounded: whether shapes are rounded up, so that few of them occur.
    """

    requests: int
    suffixes: Suffixes
    values: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor
    rounded: bool = False

    @property
    def texts(self) -> int:
        """Number of texts per request: its contexts and its essence prompt."""
        return len(self.suffixes.tokens) // self.requests

    @property
    def located(self) -> list[Located]:
        """Each request's keys and values."""
        keys, values = (
            part.unflatten(0, (self.requests, -1))[:, :-1]
            for part in (self.suffixes.keys, self.values)
        )
        outputs = self.suffixes.values[:: self.texts]
        positions = self.suffixes.positions[:: self.texts, 0].tolist()
        return [Located(*parts) for parts in zip(keys, values, outputs, positions, strict=True)]

    def chosen(self, numbers: Sequence[int], within: Sequence[int] | None = None) -> "Recorded":
        """The part for some of the requests; of each, all texts or those numbered ``within``."""
        device = self.rows.device
        kept = torch.tensor(numbers, device=device)
        of_each = torch.tensor(range(self.texts) if within is None else within, device=device)
        texts = (kept[:, None] * self.texts + of_each).flatten()
        place = torch.full((len(self.values),), -1, device=device)
        place[texts] = torch.arange(len(texts), device=device)
        here = (place[self.rows] >= 0).nonzero()[:, 0]
        return Recorded(
            len(numbers),
            self.suffixes.chosen(texts),
            self.values[texts],
            place[self.rows[here]],
            self.columns[here],
            self.targets[here],
            self.weights[here],
            self.rounded,
        )


def alike(
    tokenizer: PreTrainedTokenizerFast, requests: Sequence[EditRequest], size: int
) -> list[list[int]]:
    """Indices of requests to search together: groups of equal length after the subject.

    Args:
        tokenizer: the model's.
        requests: all of them.
        size: maximum size of a group.
    """
    spans = [located_span(tokenizer, request) for request in requests]
    widths = [len(span.tokens) - span.subject for span in spans]
    parts: list[list[int]] = []
    for number in sorted(range(len(requests)), key=widths.__getitem__):
        last = parts[-1] if parts else []
        if last and len(last) < size and widths[last[0]] == widths[number]:
            last.append(number)
        else:
            parts.append([number])
    return parts


def record_requests(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    layer: int,
    contexts: Sequence[str],
    requests: Sequence[EditRequest],
    rounded: bool = False,
) -> Recorded:
    """Runs requests in every context, and their essence prompts, through the model once.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        layer: the edited layer.
        contexts: templates with one ``{}``, the plain one first.
        requests: the facts to change.
        rounded: whether shapes are rounded up (see :mod:`.buckets`).
    """
    texts: list[Span] = []
    places: list[Place] = []
    for request in requests:
        for context in contexts:
            span = located_span(tokenizer, request, context)
            places += _target_places(span, len(texts))
            texts.append(span._replace(tokens=span.tokens[:-1]))
        texts.append(located_span(tokenizer, request._replace(prompt=ESSENCE, target_new="")))
    suffixes = record_suffixes(
        lm,
        layer,
        collate([text.tokens for text in texts], lm.device),
        torch.tensor([text.subject for text in texts], device=lm.device),
        rounded,
    )
    suffixes = suffixes._replace(keys=edited_keys(lm, layer, requests, suffixes.keys))
    if rounded:
        places = list(evened(places, suffixes.tokens.shape[1]))
    rows, columns, targets, counted = torch.tensor(places, device=lm.device).T
    weights = counted / rows.bincount(counted.float())[rows] / len(contexts)
    found = rows, columns, targets, weights
    return Recorded(len(requests), suffixes, suffixes.values, *found, rounded)


def _target_places(span: Span, row: int) -> list[Place]:
    """Row, column of the logits, and token of every target token; the 1 counts it."""
    return [
        (row, at - 1 - span.subject, span.tokens[at], 1)
        for at in range(span.start, len(span.tokens))
    ]


def search_values(
    lm: PreTrainedModel,
    layer: int,
    recorded: Recorded,
    options: ValueSearchOptions,
    at_step: Callable[[int], None] | None = None,
    among: Divided = Divided(),  # noqa: B008 - a tuple
) -> list[FoundValue]:
    """Per request, the value at the subject that makes every context continue with the target.

    The NLL is the mean over contexts of the mean over target tokens. The KL divergence
    ``D(now ‖ before)`` compares the next-token distributions at the essence prompt's subject
    (Meng et al. 2022, equation 4). ``at_step`` is called with the number of each step. Devices
    may divide the contexts ``among`` them.
    """
    before: Tensor | None = None
    steps = count(1)
    searching = list(range(recorded.requests))
    own = recorded
    if among.devices > 1:
        own = recorded.chosen(searching, among.texts(recorded.texts))
    part = own
    computed, index = searching, torch.tensor(searching, device=recorded.rows.device)

    def answers(change: Tensor, numbers: Sequence[int]) -> Answers:
        nonlocal before, searching, computed, part, index
        if at_step is not None:
            at_step(next(steps))
        if list(numbers) != searching:
            searching = list(numbers)
            computed = remaining(searching, computed) if recorded.rounded else searching
            part, index = own.chosen(computed), torch.tensor(computed, device=change.device)
        if part.requests > len(numbers):
            change = F.pad(change, (0, 0, 0, part.requests - len(numbers)))
        logits, essence = _heard(lm, layer, part, change)
        now = essence.log_softmax(-1)
        before = now.detach() if before is None else before
        kl = F.kl_div(before[index], now, reduction="none", log_target=True).sum(-1)
        nll = part.weights * F.cross_entropy(logits, part.targets, reduction="none")
        missed = ((logits.detach().argmax(-1) != part.targets) & (part.weights > 0)).float()
        none = change.new_zeros(part.requests)
        owner = part.rows // part.texts
        told = none.index_add(0, owner, nll), kl, none.detach().index_add(0, owner, missed) == 0
        return Answers(*(each[: len(numbers)] for each in told))

    return value_search(among.joined(answers), recorded.values[:: recorded.texts], options)


def _heard(
    lm: PreTrainedModel, layer: int, recorded: Recorded, change: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits of all target tokens ``(a, v)`` and at the essence prompts' subjects ``(n, v)``."""
    last = torch.arange(1, recorded.requests + 1, device=change.device) * recorded.texts - 1
    logits = suffix_logits(
        lm,
        layer,
        recorded.suffixes,
        change.repeat_interleave(recorded.texts, 0),
        torch.cat([recorded.rows, last]),
        F.pad(recorded.columns, (0, recorded.requests)),
    ).float()
    return logits[: -recorded.requests], logits[-recorded.requests :]
