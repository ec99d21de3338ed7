"""From a request to the value that answers it: contexts recorded once, then a search above them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..functional.value_search import FoundValue, ValueSearchOptions, value_search
from .passes import Suffixes, record_suffixes, suffix_logits
from .tokens import Span, collate, request_span

ESSENCE = "{} is a"


class Recorded(NamedTuple):
    """A request's texts, recorded: one per context template, and the essence prompt last.

    Attributes:
        suffixes: of all texts, ``b = contexts + 1``.
        rows: ``(n,)``, the text of each target token.
        columns: ``(n,)``, where its logits stand, from the subject's last token on.
        targets: ``(n,)``, target tokens.
    """

    suffixes: Suffixes
    rows: Tensor
    columns: Tensor
    targets: Tensor

    @property
    def keys(self) -> Tensor:
        """The key in each context, ``(c, f)``; the first is unprefixed."""
        return self.suffixes.keys[:-1]

    @property
    def values(self) -> Tensor:
        """The value in each context, ``(c, d)``; the first is unprefixed."""
        return self.suffixes.values[:-1]

    @property
    def key_cosine(self) -> float:
        """Cosine of the unprefixed key and the mean key; far below 1 where ROME is dangerous."""
        return float(F.cosine_similarity(self.keys[0], self.keys.mean(0), 0))

    @property
    def subject_position(self) -> int:
        """Position of the subject's last token in the plain prompt; 0 is the dangerous place."""
        return int(self.suffixes.positions[0, 0])


def record_request(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    layer: int,
    contexts: Sequence[str],
    request: EditRequest,
) -> Recorded:
    """Runs a request in every context, and its essence prompt, through the model once.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        layer: the edited layer.
        contexts: templates with one ``{}``, the plain one first.
        request: the fact to change.
    """
    spans = [
        request_span(
            tokenizer, context.replace("{}", request.prompt, 1), request.subject, request.target_new
        )
        for context in contexts
    ]
    essence = request_span(tokenizer, ESSENCE, request.subject, "")
    suffixes = record_suffixes(
        lm,
        layer,
        collate([span.tokens[:-1] for span in spans] + [essence.tokens], lm.device),
        torch.tensor([span.subject for span in [*spans, essence]], device=lm.device),
    )
    rows, columns, targets = _target_places(spans).to(lm.device)
    return Recorded(suffixes, rows, columns, targets)


def _target_places(spans: Sequence[Span]) -> Tensor:
    """Row, column of the logits, and token of every target token, ``(3, n)``."""
    places = [
        (row, at - 1 - span.subject, span.tokens[at])
        for row, span in enumerate(spans)
        for at in range(span.start, len(span.tokens))
    ]
    return torch.tensor(places).T


def search_value(
    lm: PreTrainedModel, layer: int, recorded: Recorded, options: ValueSearchOptions
) -> FoundValue:
    """The value at the subject that makes every context answer with the target.

    The NLL is the mean over contexts of the mean over target tokens; the KL divergence, from the
    next-token distribution at the essence prompt's subject before to the one now, is
    ``D(now ‖ before)`` (Meng et al. 2022, equation 4).
    """
    essence = len(recorded.keys)
    rows = F.pad(recorded.rows, (0, 1), value=essence)
    columns = F.pad(recorded.columns, (0, 1))
    weights = 1.0 / recorded.rows.bincount()[recorded.rows] / essence
    before: list[Tensor] = []

    def nll_and_kl(change: Tensor) -> tuple[Tensor, Tensor]:
        everywhere = change.expand(essence + 1, -1)
        logits = suffix_logits(lm, layer, recorded.suffixes, everywhere, rows, columns).float()
        nll = F.cross_entropy(logits[:-1], recorded.targets, reduction="none") @ weights
        now = logits[-1].log_softmax(-1)
        before.append(now.detach())
        return nll, F.kl_div(before[0], now, reduction="sum", log_target=True)

    return value_search(nll_and_kl, recorded.values[0], options)
