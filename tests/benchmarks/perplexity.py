"""Perplexity of watched text, against padding every batch to the corpus' longest sentence."""

from lightning_modules.language_model.scoring import score
from tests.oracles import padded_perplexity

from .shapes import (
    embedded_editor,
    lengths_like_me_ppl,
    random_editor,
    random_model,
    sentences_of,
)
from .timing import alternate


def rows(texts: int = 100, longest: int = 325) -> list[dict]:
    """A sample as uneven as ME-PPL_1k on GPT-2 small's shape, for the first time and again."""
    embedded = embedded_editor()
    editor = random_editor(random_model(), 6, embedded)
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
    name, shape = f"perplexity of {texts} sentences", "GPT-2 small, lengths of ME-PPL_1k"
    return [
        {"name": f"{name}, {which}", "shape": shape, **row}
        | {"tokens_per_second": tokens / row["ours_seconds"]}
        for which, row in (("first time", first), ("after an edit of layer 6 of 12", again))
    ]
