"""Slow, obvious versions of what the product does faster: the published way."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from data_modules.records import EditRequest
from lightning_modules.functional.value_search import Answers, FoundValue, value_search
from lightning_modules.language_model.kernels import FastConv1D, FastGELU, FastLinear
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.tokens import Span, collate, request_span
from lightning_modules.language_model.values import ESSENCE
from lightning_modules.methods.rome import RankOneEditor


@contextmanager
def published_kernels(lm: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes as transformers and torch do."""
    kinds = {module: type(module) for module in lm.modules()}
    for module, kind in kinds.items():
        if kind in (FastLinear, FastConv1D, FastGELU):
            module.__class__ = kind.__base__
    try:
        yield
    finally:
        for module, kind in kinds.items():
            module.__class__ = kind


def full_value_search(editor: RankOneEditor, request: EditRequest) -> FoundValue:
    """The value search with every token of every prompt through every layer, logits everywhere."""
    lm, tokenizer = editor.lm, editor.tokenizer
    spans = [
        request_span(
            tokenizer,
            context.replace("{}", request.prompt, 1),
            request.subject,
            request.target_new,
        )
        for context in editor.contexts.templates
    ]
    essence = request_span(tokenizer, ESSENCE, request.subject, "")
    batch = collate([s.tokens[:-1] for s in spans] + [essence.tokens], lm.device)
    wanted = F.pad(batch.tokens[:, 1:], (0, 1))
    asked = torch.zeros(batch.tokens.shape)
    for row, span in enumerate(spans):
        at = torch.arange(span.start - 1, len(span.tokens) - 1)
        wanted[row, at], asked[row, at] = torch.tensor(span.tokens[span.start :]), 1.0
    rows = torch.arange(len(spans) + 1)
    subjects = torch.tensor([s.subject for s in [*spans, essence]])
    edited = output_map(lm, editor.value_layer)
    greedy = editor.search.options.stop == "most_probable"
    original: list[Tensor] = []
    first: list[Tensor] = []

    def add(change: Tensor):
        def hook(module, args, output):
            shaped = output.view(len(rows), -1, output.shape[-1])
            original.append(shaped[0, subjects[0]].detach())
            moved = shaped.clone()
            moved[rows, subjects] += change.to(moved)
            return moved.view_as(output)

        return edited.register_forward_hook(hook)

    def answers(change: Tensor, numbers: Sequence[int]) -> Answers:
        handle = add(change[0])
        log_probs = lm(
            batch.tokens, attention_mask=batch.mask, position_ids=batch.positions
        ).logits.log_softmax(-1)
        handle.remove()
        told = log_probs.gather(2, wanted[..., None])[..., 0]
        nll = -((told * asked).sum(1)[:-1] / asked.sum(1)[:-1]).mean()
        now = log_probs[-1, essence.subject]
        first.append(now.detach())
        probable = (
            (log_probs.argmax(-1) == wanted)[asked > 0].all() if greedy else torch.tensor(False)
        )
        return Answers(nll[None], (now.exp() * (now - first[0])).sum()[None], probable[None])

    with published_kernels(lm):
        with torch.no_grad():
            answers(torch.zeros(1, lm.config.hidden_size), [0])
        return value_search(answers, original[0][None], editor.search.options)[0]


@torch.no_grad()
def padded_perplexity(lm: PreTrainedModel, spans: Sequence[Span], batch_size: int = 10) -> float:
    """Mean of per-text perplexities, every batch padded to the corpus' longest text."""
    longest = max(len(span.tokens) for span in spans)
    found = []
    for at in range(0, len(spans), batch_size):
        rows = [s.tokens + [0] * (longest - len(s.tokens)) for s in spans[at : at + batch_size]]
        tokens = torch.tensor(rows)
        mask = torch.zeros_like(tokens)
        for row, span in enumerate(spans[at : at + batch_size]):
            mask[row, : len(span.tokens)] = 1
        with published_kernels(lm):
            logits = lm(tokens, attention_mask=mask).logits
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        scored = mask[:, 1:]
        found.append(((losses * scored).sum(1) / scored.sum(1)).double().exp())
    return float(torch.cat(found).mean())
