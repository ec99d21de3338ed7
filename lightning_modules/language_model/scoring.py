"""The one judging primitive: the log-likelihood of given tokens."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .lower_states import LowerStates
from .passes import picked_logits
from .rope import rope_boundary
from .tokens import Span, collate

SMALL = 256  # tokens of a batch, up to which padding does not matter: a pass costs about the same


@dataclass(frozen=True)
class Batching:
    """Size of the batches in which texts are scored; scores do not depend on it.

    Attributes:
        tokens: most tokens of a batch, padding included; bounds memory.
        padding: largest share of padding in a batch of more than 256 tokens. On a CPU a pass costs
            its tokens, on a GPU also its launches and the reading of all weights: 0.4 makes two
            batches of ME-PPL_50 instead of six, 0.6 and 4,096 tokens a single one.
    """

    tokens: int = 2048
    padding: float = 0.1

    def __post_init__(self) -> None:
        """Refuses what makes no batch.

        Raises:
            ValueError: if there is room for no token, or for nothing but padding.
        """
        if self.tokens < 1:
            raise ValueError(f"a batch has at least 1 token, got tokens {self.tokens}")
        if not 0 <= self.padding < 1:
            raise ValueError(f"padding is a share in [0, 1) of a batch, got {self.padding}")


class Scores(NamedTuple):
    """Per text, on the CPU: the quantities that perplexity, choice and match reduce.

    Attributes:
        log_prob: ``(n,)`` float64, sum of the predicted tokens' log-probabilities, in nats.
        length: ``(n,)``, number of predicted tokens.
        greedy: ``(n,)``, how many of them are the most probable token at their position.
        guesses: ``(sum of lengths,)``, the most probable token at each position, text by text.
    """

    log_prob: Tensor
    length: Tensor
    greedy: Tensor
    guesses: Tensor

    @property
    def nll(self) -> Tensor:
        """Mean negative log-likelihood per predicted token, ``(n,)``, in nats."""
        return -self.log_prob / self.length


class TokenScores(NamedTuple):
    """Scores of a batch's predicted tokens, ``(n,)`` each, on the CPU.

    Attributes:
        log_prob: float64, in nats.
        hit: 1 where the most probable token is the predicted one.
        guess: the most probable token.
        row: index of its text in the batch, ascending.
    """

    log_prob: Tensor
    hit: Tensor
    guess: Tensor
    row: Tensor


@torch.no_grad()
def score(
    lm: PreTrainedModel,
    spans: Sequence[Span],
    batching: Batching = Batching(),
    lower: LowerStates | None = None,
    copies: int = 1,
    share: tuple[int, int] = (0, 1),
) -> Scores:
    """Scores of each span's tokens from ``start`` on, in the given order.

    Sums are float64, and exact to float32 logits even if a collapsed model yields hundreds of nats
    per token. Spans run in batches of similar length.

    Args:
        lm: the model.
        spans: texts with their predicted part.
        batching: size of the batches.
        lower: cache of hidden states below the edit, for texts that are scored again.
        copies: copies of each text in its batch, for a model that treats copies differently
            (``apart.edited_apart``); in the result all first copies come first.
        share: this device's rank and the number of devices; each scores its share of the batches,
            and the sum over the devices is the result.

    Raises:
        MemoryError: if a single text does not fit into memory beside the model.
    """
    log_prob = torch.zeros(copies, len(spans), dtype=torch.float64)
    greedy = torch.zeros(copies, len(spans), dtype=torch.long)
    length = torch.tensor([len(span.tokens) - span.start for span in spans] * copies)
    begin = length.cumsum(0) - length
    guesses = torch.zeros(int(length.sum()), dtype=torch.long)
    boundary = rope_boundary(lm)
    batches = batches_by_length(
        [len(span.tokens) for span in spans],
        batching.tokens // copies,
        boundary and boundary + 1,  # a text's last token is not read
        batching.padding,
    )
    for batch in islice(batches, share[0], None, share[1]):
        for numbers, found in _fitting(lm, spans, batch, lower, copies):
            row = found.row
            index = row // len(numbers) * len(spans) + torch.tensor(numbers)[row % len(numbers)]
            log_prob.view(-1).index_add_(0, index, found.log_prob)
            greedy.view(-1).index_add_(0, index, found.hit)
            within = torch.arange(len(row)) - torch.searchsorted(row, row)
            guesses[begin[index] + within] = found.guess
    return Scores(log_prob.flatten(), length, greedy.flatten(), guesses)


def batches_by_length(
    lengths: list[int],
    batch_tokens: int,
    boundary: int | None = None,
    padding: float = Batching.padding,
) -> Iterator[list[int]]:
    """Indices grouped by similar length: at most ``batch_tokens``, with little padding.

    Lengths up to the boundary never share a group with longer ones.
    """
    group: list[int] = []
    real = 0
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = lengths[number] * (len(group) + 1)
        real += lengths[number]
        wasteful = padded > SMALL and real < (1 - padding) * padded
        crosses = boundary is not None and group and lengths[group[0]] <= boundary < lengths[number]
        if group and (padded > batch_tokens or wasteful or crosses):
            yield group
            group, real = [], lengths[number]
        group.append(number)
    if group:
        yield group


def _fitting(
    lm: PreTrainedModel,
    spans: Sequence[Span],
    numbers: list[int],
    lower: LowerStates | None,
    copies: int,
) -> Iterator[tuple[list[int], TokenScores]]:
    """Token scores of a batch, halved while it does not fit into the device's memory."""
    with suppress(torch.OutOfMemoryError):
        yield numbers, _token_scores(lm, [spans[number] for number in numbers], lower, copies)
        return
    if len(numbers) == 1:
        raise MemoryError(
            f"a text of {len(spans[numbers[0]].tokens)} tokens does not fit into the memory of "
            f"{lm.device} beside the model; leave long texts out, or set watch_memory or "
            "RestoreWeights' together lower"
        )
    middle = len(numbers) // 2
    yield from _fitting(lm, spans, numbers[:middle], lower, copies)
    yield from _fitting(lm, spans, numbers[middle:], lower, copies)


def _token_scores(
    lm: PreTrainedModel, spans: list[Span], lower: LowerStates | None, copies: int
) -> TokenScores:
    """Scores of every predicted token, row by row."""
    places = [
        (row, at)
        for row, span in enumerate(spans * copies)
        for at in range(span.start, len(span.tokens))
    ]
    rows, columns = torch.tensor(places, dtype=torch.long, device=lm.device).reshape(-1, 2).T
    # a text's last token is not read: one-token answers to the same question share a row
    read = [tuple(span.tokens[: max(1, len(span.tokens) - 1)]) for span in spans]
    place = {tokens: number for number, tokens in enumerate(dict.fromkeys(read))}
    line = [place[tokens] + copy * len(place) for copy in range(copies) for tokens in read]
    batch = collate(list(place) * copies, lm.device)
    reused = lower.reused(lm, list(place), copies) if lower else nullcontext()
    with reused:
        texts = torch.tensor(line, device=lm.device)[rows]
        logits = picked_logits(lm, batch, texts, columns - 1).float()
    asked = [token for span in spans * copies for token in span.tokens[span.start :]]
    targets = torch.tensor(asked, dtype=torch.long, device=lm.device)
    peak, guess = logits.max(-1)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    spread = logits.sub_(peak[:, None]).exp_().sum(-1).log()  # in place: logits are large
    # peak and choice may be hundreds of nats apart: only their difference needs float64
    log_prob = chosen.double() - peak.double() - spread.double()
    hit = (guess == targets).long()
    return TokenScores(log_prob.cpu(), hit.cpu(), guess.cpu(), rows.contiguous().cpu())
