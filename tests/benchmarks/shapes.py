"""Models, requests and texts to measure on."""

import math
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import NormalDist

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PretrainedConfig, PreTrainedModel

from data_modules.embedded import embedded_requests, embedded_sentences
from data_modules.records import EditRequest
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.tokens import Span, request_span, text_span
from lightning_modules.methods.rome import ROME

GPT2_SMALL = GPT2Config()
WIDTHS = (4, 2, 3, 3, 5, 5, 6, 6)  # of CounterFact: median 4, a fifth above 5


def embedded_editor() -> ROME:
    """ROME on the embedded model, ready to edit."""
    editor = ROME()
    editor.configure_model()
    editor.prepare()
    return editor


def random_editor(lm: PreTrainedModel, layer: int, embedded: ROME) -> ROME:
    """ROME on a random model, which always takes all its steps."""
    editor = ROME(layer=layer, value=ValueSearchOptions(goal=0.0), second_moment="identity")
    editor.contexts.templates = embedded.contexts.templates
    editor.attach(lm.eval().requires_grad_(False), embedded.tokenizer)
    editor.prepare()
    return editor


def random_model(config: PretrainedConfig = GPT2_SMALL) -> PreTrainedModel:
    """GPT-2 with random weights."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(config)


def counterfact_like(editor: ROME, count: int = len(WIDTHS)) -> list[EditRequest]:
    """Embedded requests with as many tokens behind the subject as CounterFact's have."""
    by_width: dict[int, list[EditRequest]] = {}
    for request in embedded_requests():
        span = request_span(editor.tokenizer, request.prompt, request.subject, request.target_new)
        by_width.setdefault(len(span.tokens) - 1 - span.subject, []).append(request)
    chosen = []
    for wanted in islice(cycle(WIDTHS), count):
        left = [width for width, requests in by_width.items() if requests]
        chosen.append(by_width[min(left, key=lambda width: abs(width - wanted))].pop())
    return chosen


def lengths_like_me_ppl(count: int, longest: int) -> list[int]:
    """Token counts spread like ME-PPL's: at least 11, median 24, 1 % above 76, one ``longest``."""
    spread = math.log(76 / 24) / NormalDist().inv_cdf(0.99)
    quantiles = [NormalDist().inv_cdf((n + 0.5) / count) for n in range(count)]
    lengths = [max(11, round(24 * math.exp(spread * quantile))) for quantile in quantiles]
    return [*lengths[:-1], longest]


def sentences_of(editor: ROME, lengths: Sequence[int]) -> list[Span]:
    """Texts of so many tokens, cut from the embedded sentences."""
    tokens = cycle(t for s in embedded_sentences() for t in text_span(editor.tokenizer, s).tokens)
    return [Span(list(islice(tokens, length)), 1) for length in lengths]
