"""The product with its own kernels, against the same with those of torch and transformers."""

from collections.abc import Callable

from transformers import PreTrainedModel

from lightning_modules.language_model.scoring import score
from tests.oracles import published_kernels

from .shapes import (
    counterfact_like,
    embedded_editor,
    lengths_like_me_ppl,
    random_editor,
    random_model,
    sentences_of,
)
from .timing import alternate


def compared(lm: PreTrainedModel, work: Callable[[], object]) -> dict[str, float]:
    """Seconds of the same work with either kernels."""

    def published() -> None:
        with published_kernels(lm):
            work()

    return alternate(work, published)


def rows() -> list[dict]:
    """What of the other ratios is due to kernels, not to work left out."""
    embedded = embedded_editor()
    small = random_editor(random_model(), 5, embedded)
    requests = counterfact_like(embedded)
    spans = sentences_of(embedded, lengths_like_me_ppl(50, 59))
    tokens = sum(len(span.tokens) for span in spans)
    found = []
    for editor, shape in ((embedded, "embedded"), (small, "GPT-2 small")):
        search = compared(editor.lm, lambda editor=editor: editor.seek(requests[:1]))
        watch = compared(editor.lm, lambda editor=editor: score(editor.lm, spans))
        found += [
            {"name": "kernels, value search", "shape": shape, **search}
            | {"edits_per_second": 1 / search["ours_seconds"]},
            {"name": "kernels, perplexity", "shape": shape, **watch}
            | {"tokens_per_second": tokens / watch["ours_seconds"]},
        ]
    return found
