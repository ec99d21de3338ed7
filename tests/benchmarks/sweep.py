"""A single sweep with perplexity after each edit, against edit, evaluate, restore, one by one."""

from collections.abc import Sequence

from data_modules.records import EditRequest, WatchedText
from lightning_modules.language_model.scoring import Scores, score
from lightning_modules.language_model.tokens import Span
from lightning_modules.methods.rome import ROME
from tests.oracles import full_value_search, padded_perplexity, published_kernels

from .shapes import counterfact_like, embedded_editor, lengths_like_me_ppl, sentences_of
from .timing import alternate

TOGETHER = 16


def sweep(editor: ROME, requests: Sequence[EditRequest], spans: Sequence[Span]) -> list[float]:
    """Perplexity after each edit, all made and watched together."""
    batch, found = WatchedText(list(range(len(spans))), []), []

    def watch(batch: WatchedText, copies: int) -> Scores:
        return score(editor.lm, spans, lower=editor.lower, copies=copies)

    editor.make_ahead([[request] for request in requests])
    for made in editor.sweep.made:
        editor.remake(editor.sweep.find(made.requests))
        found.append(float(editor.sweep.watch(batch, watch).nll.exp().mean()))
        editor.restore()
    return found


def one_by_one(editor: ROME, requests: Sequence[EditRequest], spans: Sequence[Span]) -> list[float]:
    """The same, the published way."""
    found = []
    for request in requests:
        with published_kernels(editor.lm):
            located = editor.locate([request])[0]
        update = editor.update(located, full_value_search(editor, request))
        editor.edited.apply(update)
        found.append(padded_perplexity(editor.lm, spans))
        editor.restore()
    return found


def rows(count: int = 50) -> list[dict]:
    """On the embedded model with fifty sentences as long as ME-PPL_50's."""
    editor = embedded_editor()
    requests = counterfact_like(editor, count)
    spans = sentences_of(editor, lengths_like_me_ppl(50, 59))
    parts = [
        alternate(
            lambda part=part: sweep(editor, part, spans),
            lambda part=part: one_by_one(editor, part, spans),
            1,
            False,
        )
        for part in (requests[at : at + TOGETHER] for at in range(0, count, TOGETHER))
    ]
    row = {name: sum(part[name] for part in parts) for name in parts[0]}
    row["ratio"] = row["oracle_seconds"] / row["ours_seconds"]
    return [
        {"name": f"single sweep of {count} requests", "shape": "embedded, layer 1 of 6", **row}
        | {"edits_per_second": count / row["ours_seconds"]}
    ]
