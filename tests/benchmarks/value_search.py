"""Value search: one request, and eight together, against whole passes with logits everywhere."""

from tests.oracles import full_value_search

from .shapes import counterfact_like, embedded_editor, random_editor, random_model
from .timing import alternate


def rows(rounds: int = 1) -> list[dict]:
    """On the embedded model, and on GPT-2 small's shape, which takes all 20 steps."""
    embedded = embedded_editor()
    small = random_editor(random_model(), 5, embedded)
    found = []
    for editor, shape, warm_up in (
        (embedded, "embedded, layer 1 of 6", True),
        (small, "GPT-2 small, layer 5 of 12, 20 steps", False),
    ):
        requests = counterfact_like(editor)
        one = alternate(
            lambda editor=editor, requests=requests: editor.seek(requests[:1]),
            lambda editor=editor, requests=requests: full_value_search(editor, requests[0]),
            rounds,
            warm_up,
        )
        eight = alternate(
            lambda editor=editor, requests=requests: editor.seek(requests), None, rounds, warm_up
        )
        each = eight["ours_seconds"] / len(requests)
        oracle = one["oracle_seconds"]
        found += [
            {"name": "value search, one request", "shape": shape, **one},
            {
                "name": "value search, 8 requests, each",
                "shape": shape,
                "ours_seconds": each,
                "operations": eight["operations"] / len(requests),
                "oracle_seconds": oracle,
                "ratio": oracle / each,
            },
        ]
    return [row | {"edits_per_second": 1 / row["ours_seconds"]} for row in found]
