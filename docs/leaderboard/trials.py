"""Settings of a row, chosen by the same seeded search for every row, on requests of their own."""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import train
from callbacks.keeping.means import harmonic_score, mean_scores
from callbacks.keeping.run_folder import write_json
from callbacks.watching.perplexity import CorpusPerplexity
from docs.leaderboard.boards import COST, RUNS, TUNING, Board, Tuning, ranges_of, tuning_of
from docs.leaderboard.course import read_json
from docs.leaderboard.launching import LIMIT, arguments


def tuned(board: Board, row: str) -> dict[str, Any]:
    """A row's trials and choice, read, or made and written to its folder after each trial.

    The first trial has the config's own values. A trial's score is ROME's S, the harmonic mean of
    efficacy, paraphrase and neighborhood over all its edits at the end; 0 if the model collapsed or
    an edit failed. Of equal ones the first counts. More trials continue those that were made.

    Raises:
        ValueError: if the row has runs whose settings another budget chose.
    """
    known, budget = made_so_far(board, row), board.tuning
    tries = list(known["trials"]) if known else []
    for options in to_come(board, row, known):
        tries.append(trial(board, row, options))
        known = keep(board, row, known, told(row, budget._replace(trials=len(tries)), tries))
    if known is None or known["budget"] != budget._asdict():  # nothing to choose
        known = keep(board, row, known, told(row, budget, tries))
    return known


def made_so_far(board: Board, row: str) -> dict[str, Any] | None:
    """What a row's file or record says; None if nothing does, or its budget cannot continue.

    Raises:
        ValueError: if the row has runs whose settings another budget chose.
    """
    known, budget = tuning_of(board, row), board.tuning._asdict()
    if known is not None and (
        known["budget"] == budget or is_continued(known, budget, ranges_of(row))
    ):
        return known
    folder = RUNS / board.name / row
    if any(folder.glob("seed-*")):
        raise ValueError(
            f"the runs in {folder} have the settings of another tuning budget than {budget}; "
            "move them away, or restore the board's budget"
        )
    return None


def to_come(board: Board, row: str, known: Mapping[str, Any] | None) -> list[dict[str, float]]:
    """The settings that a row has still to try, by what its file says."""
    if known is not None and known["budget"] == board.tuning._asdict():
        return []
    return drawn(board, row, ranges_of(row))[len(known["trials"]) if known else 0 :]


def trials_left(board: Board, row: str) -> int:
    """Trials that a row lacks."""
    return len(to_come(board, row, made_so_far(board, row)))


def told(row: str, budget: Tuning, tries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row's file says after some trials."""
    best = max(tries, key=lambda found: found["score"], default={"options": {}})
    return {
        "row": row,
        "budget": budget._asdict(),
        "part": "tuning",
        "ranges": ranges_of(row),
        "trials": list(tries),
        "choice": best["options"],
        "all_failed": bool(tries) and not best["score"],
    }


def is_continued(
    known: Mapping[str, Any], budget: Mapping[str, int], ranges: Mapping[str, list[float]]
) -> bool:
    """Whether a budget only adds trials to those that a row has."""
    if known["budget"]["trials"] > budget["trials"] or known["ranges"] != ranges:
        return False
    return {**known["budget"], "trials": budget["trials"]} == budget


def keep(
    board: Board, row: str, known: Mapping[str, Any] | None, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes a row's file, and gives its runs the new trials.

    If the choice changed, the runs of the old one go where no board looks.

    Args:
        board: of the row.
        row: whose trials were made.
        known: what the file said before.
        found: what it shall say.

    Returns:
        What it says.
    """
    folder = RUNS / board.name / row
    folder.mkdir(parents=True, exist_ok=True)
    runs = [*folder.glob("seed-*"), *folder.glob(COST)]
    if known is not None and known["choice"] != found["choice"] and runs:
        aside = folder / f"of-{known['budget']['trials']}-trials"
        aside.mkdir(exist_ok=True)
        for path in runs:
            path.rename(aside / path.name)
    for file in (*folder.glob(f"seed-*/version_*/{TUNING}"), folder / TUNING):
        write_json(file, found)
    return read_json(folder / TUNING)


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
    write_json(folder / TUNING, tuned(board, row))
