"""Tables of docs/smollm2.md that docs/reproduce.md has not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from callbacks.keeping.run_folder import read_journal
from docs.tables import SCORES, markdown, mean, percent, perplexities, read


def survey(first: Path, stated: Path, asked: int) -> str:
    """How many facts the model states, and how many begin with a subject of one token."""
    cases = {file: {case["case_id"] for case in read(file)} for file in (first, stated)}
    return markdown(
        [
            ("requests", "of them"),
            (f"stated, of {asked}", len(cases[stated])),
            ("subject is the first token", len(cases[first])),
            ("both", len(cases[stated] & cases[first])),
        ]
    )


def by_position(runs: Mapping[str, Path], first: Path) -> str:
    """Single edits of each run, those at the first token apart; shares with Wilson's intervals."""
    at_first = {case["case_id"] for case in read(first)}
    rows: list[Sequence[Any]] = [
        ("run", "subject", "n", "collapsed", "95 % interval", "lowest", "median", "highest",
         "denominator", *(f"{score} %" for score in SCORES)),
    ]  # fmt: skip
    for name, run in runs.items():
        edits = read_journal(run)
        for kind in ("first token", "elsewhere"):
            own = [e for e in edits if (e["case_id"] in at_first) == (kind == "first token")]
            if own:
                found = sorted(perplexities(own))
                collapsed = sum(edit["collapsed"] for edit in own)
                low, high = binomtest(collapsed, len(own)).proportion_ci(method="wilson")
                rows.append((name.partition("-")[2], kind, len(own), collapsed,
                             f"{100 * low:.0f} to {100 * high:.0f} %", found[0],
                             found[len(found) // 2], found[-1], mean(own, "denominator"),
                             *(percent(mean(own, score)) for score in SCORES)))  # fmt: skip
    return markdown(rows)
