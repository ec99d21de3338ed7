"""Settings of a row, chosen by the same seeded search for every row, on requests of their own."""

import math
import random
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import train
from callbacks.keeping.means import harmonic_score, mean_scores
from callbacks.keeping.run_folder import write_json
from callbacks.watching.perplexity import CorpusPerplexity
from docs.leaderboard.boards import RUNS, Board, ranges_of, read_json
from docs.leaderboard.launching import LIMIT, arguments
from docs.leaderboard.tables import COST

FILE = "tuning.json"


def tuned(board: Board, row: str) -> dict[str, Any]:
    """A row's trials and choice, read, or made and written to its folder.

    The first trial has the config's own values. A trial's score is ROME's S, the harmonic mean of
    efficacy, paraphrase and neighborhood over all its edits at the end; 0 if the model collapsed or
    an edit failed. Of equal ones the first counts. More trials continue those that were made.

    Raises:
        ValueError: if the row has runs whose settings another budget chose.
    """
    file = RUNS / board.name / row / FILE
    known, budget, ranges = read_json(file), board.tuning._asdict(), ranges_of(row)
    if known is not None and known["budget"] == budget:
        return known
    goes_on = known is not None and is_continued(known, budget, ranges)
    if not goes_on and any(file.parent.glob("seed-*")):
        raise ValueError(
            f"the runs in {file.parent} have the settings of another tuning budget than {budget}; "
            "move them away, or restore the board's budget"
        )
    made = known["trials"] if goes_on else []
    tries = made + [
        trial(board, row, options) for options in drawn(board, row, ranges)[len(made) :]
    ]
    best = max(tries, key=lambda found: found["score"], default={"options": {}})
    found = {
        "row": row,
        "budget": budget,
        "part": "tuning",
        "ranges": ranges,
        "trials": tries,
        "choice": best["options"],
        "all_failed": bool(tries) and not best["score"],
    }
    if goes_on:
        keep_or_set_aside(file.parent, known, found)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    return read_json(file)


def is_continued(
    known: Mapping[str, Any], budget: Mapping[str, int], ranges: Mapping[str, list[float]]
) -> bool:
    """Whether a budget only adds trials to those that a row has."""
    if known["budget"]["trials"] > budget["trials"] or known["ranges"] != ranges:
        return False
    return {**known["budget"], "trials": budget["trials"]} == budget


def keep_or_set_aside(folder: Path, known: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Gives a row's runs the new trials; if the choice changed, puts them where no board looks."""
    if found["choice"] == known["choice"]:
        for file in folder.glob(f"seed-*/version_*/{FILE}"):
            write_json(file, found)
        return
    aside = folder / f"of-{known['budget']['trials']}-trials"
    aside.mkdir(exist_ok=True)
    for path in (*folder.glob("seed-*"), *folder.glob(COST)):
        path.rename(aside / path.name)


def drawn(board: Board, row: str, ranges: Mapping[str, list[float]]) -> list[dict[str, float]]:
    """The settings to try: none changed, then log-uniform draws; none if there is no choice."""
    if not ranges or board.tuning.trials == 1:
        return []
    draw = random.Random(f"{board.tuning.seed} {row}")
    others = [
        {
            name: float(f"{math.exp(draw.uniform(*map(math.log, bounds))):.3g}")
            for name, bounds in ranges.items()
        }
        for _ in range(board.tuning.trials - 1)
    ]
    return [{}, *others]


def trial(board: Board, row: str, options: Mapping[str, float]) -> dict[str, Any]:
    """Edits requests of the tuning part with these settings, and judges them all at the end."""
    budget = board.tuning
    asked = arguments(board, row, budget.seed, budget.edits, options)
    cli = train.main([*asked, "--data.part", "tuning"], run=False)
    editor, data = cli.model, cli.datamodule
    data.setup("fit")
    editor.configure_model()
    editor.prepare()
    failed = train_together(cli) if row in board.together else edit_each(cli)
    metric = CorpusPerplexity()
    for batch in data.val_dataloader():
        scores = editor.watch(batch)
        metric.update(scores.nll, scores.length)
    perplexity = metric.compute()["perplexity"]
    means = mean_scores(editor.judge_all(data.requests))
    lost = failed > 0 or not math.isfinite(perplexity) or perplexity > LIMIT
    score = 0.0 if lost else merit(means)
    kept = ("efficacy", "paraphrase", "neighborhood")
    found = {"options": dict(options), "score": score, "failed": failed, "perplexity": perplexity}
    return found | {name: means.get(name) for name in kept}


def merit(means: Mapping[str, float]) -> float:
    """ROME's S, or the efficacy alone if the requests lack paraphrases or neighbors."""
    found = harmonic_score(dict(means))
    return means["efficacy"] if found is None else found


def edit_each(cli: Any) -> int:
    """Edits one batch after another; the number of failed edits."""
    failed = 0
    for batch in cli.datamodule.train_dataloader():
        cli.model.record = {}
        cli.model.make_edit(batch)
        failed += cli.model.record["status"] == "failed"
    return failed


def train_together(cli: Any) -> int:
    """Trains on all requests for as many epochs as configured; the number of failed steps."""
    failed = 0
    for _ in range(cli.trainer.max_epochs):
        losses = []
        for batch in cli.datamodule.train_dataloader():
            cli.model.record = {}
            cli.model.make_edit(batch)
            failed += cli.model.record["status"] == "failed"
            losses.append(cli.model.record["loss"])
        if fmean(losses) < cli.model.goal:
            break
    return failed


def options_of(board: Board, row: str) -> dict[str, float]:
    """A row's chosen settings."""
    return tuned(board, row)["choice"]


def copy_to(folder: Path, board: Board, row: str) -> None:
    """Puts the ranges, the trials and the choice into a run's folder."""
    write_json(folder / FILE, tuned(board, row))
