"""Perplexity of watched text, against padding every batch to the corpus' longest sentence."""

from lightning_modules.language_model.scoring import score
from lightning_modules.methods.rome import ROME
from tests.oracles import padded_perplexity

from .shapes import (
    embedded_editor,
    lengths_like_me_ppl,
    random_editor,
    random_model,
    sentences_of,
)
from .timing import alternate


def rows() -> list[dict]:
    """Samples as uneven as ME-PPL_1k and as ME-PPL_50, on GPT-2 small's shape."""
    embedded = embedded_editor()
    editor = random_editor(random_model(), 6, embedded)
    return [
        *compared(embedded, editor, "ME-PPL_1k", 100, 325),
        *compared(embedded, editor, "ME-PPL_50", 50, 59),
    ]


def compared(embedded: ROME, editor: ROME, like: str, texts: int, longest: int) -> list[dict]:
    """A sample's perplexity for the first time, and after an edit."""
    lm, lower = editor.lm, editor.lower
    spans = sentences_of(embedded, lengths_like_me_ppl(texts, longest))
    tokens = sum(len(span.tokens) for span in spans)
    score(lm, spans, lower=lower)
    first = alternate(lambda: score(lm, spans), None, 1, warm_up=False)
    again = alternate(
        lambda: score(lm, spans, lower=lower), lambda: padded_perplexity(lm, spans), 1, False
    )
    first |= {
        "oracle_seconds": again["oracle_seconds"],
        "ratio": again["oracle_seconds"] / first["ours_seconds"],
    }
    name, shape = f"perplexity of {texts} sentences", f"GPT-2 small, lengths of {like}"
    return [
        {"name": f"{name}, {which}", "shape": shape, **row}
        | {"tokens_per_second": tokens / row["ours_seconds"]}
        for which, row in (("first time", first), ("after an edit of layer 6 of 12", again))
    ]
