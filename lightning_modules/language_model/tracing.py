"""Passes of causal tracing: a subject's embeddings corrupted, one state restored at a time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..functional.causal_trace import window_around
from .layout import blocks, output_map
from .passes import picked_logits, recording, starting_at
from .tokens import collate, request_span, target_span

KINDS = ("hidden", "mlp", "attention")


class Fact(NamedTuple):
    """A prompt and the answer's first token.

    Attributes:
        tokens: of the prompt.
        first: index of the subject's first token.
        last: index of its last token.
        answer: the token whose probability is traced.
    """

    tokens: list[int]
    first: int
    last: int
    answer: int


class Trace(NamedTuple):
    """Effect of restoring a state on the answer's probability; means over the noise samples.

    Attributes:
        clean: probability of the answer.
        corrupted: the same with the noise on the subject.
        effects: by kind ``(layers traced, t)`` float64: the probability with that state restored,
            minus ``corrupted``; 0 before the subject, where the noise has no effect.
    """

    clean: float
    corrupted: float
    effects: dict[str, Tensor]


class States(NamedTuple):
    """States of a model's blocks for a batch; a tensor ``(b, t, d)`` per layer each.

    Attributes:
        hidden: outputs of the blocks.
        mlp: outputs of the MLPs' output maps.
        attention: outputs of the attention modules.
        probability: ``(b,)`` float64, of the answer.
    """

    hidden: list[Tensor]
    mlp: list[Tensor]
    attention: list[Tensor]
    probability: Tensor


def fact_of(tokenizer: PreTrainedTokenizerFast, request: EditRequest) -> Fact:
    """The request's prompt with its true answer."""
    span = request_span(tokenizer, request.prompt, request.subject, request.target_true)
    begin = request.prompt.index("{}")  # the first token is the last to begin up to here
    first = target_span(tokenizer, request.text, request.target_true, begin + 1).subject
    return Fact(span.tokens[: span.start], first, span.subject, span.tokens[span.start])


def attention_of(lm: PreTrainedModel, layer: int) -> nn.Module:
    """A block's attention module: the child with maps of its own that is not the MLP.

    Raises:
        ValueError: if there is no such child, or several.
    """
    value = output_map(lm, layer)
    found = [
        child
        for child in blocks(lm)[layer].children()
        if value not in list(child.modules())
        and sum(getattr(m, "weight", torch.empty(0)).ndim == 2 for m in child.modules()) > 1
    ]
    if len(found) != 1:
        raise ValueError(
            f"layer {layer} of {lm.config.model_type!r} has {len(found)} modules that could be its "
            "attention, exactly one is needed; this family cannot be traced"
        )
    return found[0]


def subject_embeddings(lm: PreTrainedModel, facts: Sequence[Fact]) -> Tensor:
    """Embeddings of all tokens of the facts' subjects, ``(n, d)``, float64."""
    tokens = [token for fact in facts for token in fact.tokens[fact.first : fact.last + 1]]
    with torch.no_grad():
        return lm.get_input_embeddings()(torch.tensor(tokens, device=lm.device)).double()


@torch.no_grad()
def trace(
    lm: PreTrainedModel, fact: Fact, noise: Tensor, window: int, layers: Sequence[int]
) -> Trace:
    """Restores every state of a fact from its subject's beginning on, one at a time.

    For each kind and layer one pass holds all positions and all samples as rows. It starts at the
    lowest restored layer, from the corrupted states below, which all rows share.

    Args:
        lm: the model.
        fact: one that the model knows.
        noise: ``(n, s, d)``, samples of the noise on the embeddings of the subject's tokens.
        window: layers around each in which outputs of MLP and attention are restored together.
        layers: layers to trace.
    """
    depth = len(blocks(lm))
    clean = states(lm, fact, noise[:1] * 0)
    corrupted = states(lm, fact, noise)
    before = corrupted.probability.mean()
    shape = (len(layers), len(fact.tokens))
    effects = {kind: torch.zeros(shape, dtype=torch.float64) for kind in KINDS}
    rows = Rows(lm, fact, noise)
    for number, layer in enumerate(layers):
        around = window_around(layer, window, depth)
        found = {
            "hidden": rows.with_hidden(layer, clean, corrupted),
            "mlp": rows.with_outputs(
                {output_map(lm, at): clean.mlp[at] for at in around}, around[0], corrupted
            ),
            "attention": rows.with_outputs(
                {attention_of(lm, at): clean.attention[at] for at in around}, around[0], corrupted
            ),
        }
        for kind, probability in found.items():
            effects[kind][number, fact.first :] = probability - before
    return Trace(float(clean.probability), float(before), effects)


def states(lm: PreTrainedModel, fact: Fact, noise: Tensor) -> States:
    """The model's states with each sample of noise, one sample per row."""
    layers = range(len(blocks(lm)))
    modules: dict[tuple[str, int], nn.Module] = {}
    for layer in layers:
        modules["hidden", layer] = blocks(lm)[layer]
        modules["mlp", layer] = output_map(lm, layer)
        modules["attention", layer] = attention_of(lm, layer)
    with recording(modules) as seen:
        found = probability(lm, fact, noise)
    outputs = {name: first_of(output).to(lm.device) for name, (_, output) in seen.items()}
    shape = (len(noise), len(fact.tokens), -1)
    kinds = {kind: [outputs[kind, at].reshape(shape) for at in layers] for kind in KINDS}
    return States(**kinds, probability=found)


def probability(lm: PreTrainedModel, fact: Fact, noise: Tensor) -> Tensor:
    """Probability of the answer after the prompt, ``(b,)`` float64, with each row's noise."""
    batch = collate([fact.tokens] * len(noise), lm.device)
    rows = torch.arange(len(noise), device=lm.device)
    last = torch.full_like(rows, len(fact.tokens) - 1)
    with noisy(lm, fact.first, noise):
        logits = picked_logits(lm, batch, rows, last)
    return logits.double().softmax(-1)[:, fact.answer].cpu()


class Rows:
    """A batch in which each row restores one position of one noise sample.

    Args:
        lm: the model.
        fact: each row is its prompt.
        noise: ``(n, s, d)``.
    """

    def __init__(self, lm: PreTrainedModel, fact: Fact, noise: Tensor) -> None:
        self.lm, self.fact = lm, fact
        self.samples = len(noise)
        positions = torch.arange(fact.first, len(fact.tokens), device=lm.device)
        self.columns = positions.repeat_interleave(self.samples)
        self.rows = torch.arange(len(self.columns), device=lm.device)
        self.noise = self.spread(noise)

    def spread(self, samples: Tensor) -> Tensor:
        """Each sample's part of ``(n, …)``, repeated for its rows."""
        copies = len(self.columns) // self.samples
        return samples.repeat(copies, *[1] * (samples.ndim - 1))

    def with_hidden(self, layer: int, clean: States, corrupted: States) -> Tensor:
        """Mean probability by position, ``(p,)``, with a block's output restored there."""
        hidden = self.spread(corrupted.hidden[layer])
        hidden[self.rows, self.columns] = clean.hidden[layer][0, self.columns]
        return self.mean_from(layer + 1, hidden)

    def with_outputs(
        self, restored: dict[nn.Module, Tensor], lowest: int, corrupted: States
    ) -> Tensor:
        """The same with outputs of modules restored to ``(1, t, d)``, the lowest in ``lowest``."""
        below = self.spread(corrupted.hidden[max(lowest, 1) - 1])
        with ExitStack() as stack:
            for module, output in restored.items():
                handle = module.register_forward_hook(self.restoring(output[0]))
                stack.callback(handle.remove)
            return self.mean_from(lowest, below)

    def restoring(self, wanted: Tensor) -> Any:
        """A hook that sets each row to ``wanted``, ``(t, d)``, at its own position."""

        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            changed = first_of(output).clone()
            shaped = changed.view(len(self.rows), -1, changed.shape[-1])
            places = self.rows.to(shaped.device), self.columns.to(shaped.device)
            shaped[places] = wanted[self.columns].to(shaped)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    def mean_from(self, layer: int, hidden: Tensor) -> Tensor:
        """Mean probability by position, ``(p,)``, of rows with ``hidden`` below a layer."""
        with starting_at(self.lm, layer, hidden):
            found = probability(self.lm, self.fact, self.noise)
        return found.view(-1, self.samples).mean(1)


@contextmanager
def noisy(lm: PreTrainedModel, first: int, noise: Tensor) -> Iterator[None]:
    """Inside, ``noise (b, s, d)`` is added to the embeddings from the token ``first`` on."""

    def add(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, first : first + noise.shape[1]] += noise.to(output)
        return changed

    handle = lm.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def first_of(output: Any) -> Tensor:
    """A module's output, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output
