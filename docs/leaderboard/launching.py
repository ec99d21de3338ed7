"""The command line of a run, and the run itself."""

import gc
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence

import train
from callbacks.keeping.run_folder import write_json
from callbacks.keeping.schedule import FINISHED
from docs.leaderboard.boards import PROTOCOL, RUNS, Board, Cell
from docs.leaderboard.course import FAILED

LIMIT = 1000.0  # perplexity of a collapsed model, as in the papers
TOGETHER = ("--config", "leaderboard/together.yaml")


def arguments(
    board: Board, row: str, seed: int, length: int, options: Mapping[str, float]
) -> list[str]:
    """A row's arguments of ``train.py``, without a verb; ``length`` counts edits."""
    chosen = [f"--{name}={value}" for name, value in options.items()]
    protocol = ["--config", f"leaderboard/{PROTOCOL}.yaml"]
    batch = TOGETHER if row in board.together else ("--data.batch_size", str(board.batch))
    numbers = {"--seed_everything": seed, "--model.seed": seed, "--data.seed": seed}
    seeds = [word for option in numbers.items() for word in map(str, option)]
    return [
        *("--config", f"{row}.yaml"),
        *shlex.split(board.options),
        *protocol,
        *batch,
        *chosen,
        *seeds,
        *("--data.limit", str(length * board.batch)),
        *("--collapse.threshold", str(LIMIT)),
    ]


def command(cell: Cell, options: Mapping[str, float]) -> list[str]:
    """The arguments of a cell's run, which continues the shorter one if there is any.

    A training on all requests at once begins anew: what it learnt was judged where it was stopped.
    """
    place = "--trainer.logger.init_args."
    begun = cell.row not in cell.board.together and any(cell.folder.glob("checkpoints/*.ckpt"))
    kept = ["--ckpt_path", "last"] if begun else []
    return [
        "fit",
        *arguments(cell.board, cell.row, cell.seed, cell.length, options),
        *(f"{place}save_dir", str(RUNS / cell.board.name), f"{place}name", cell.name),
        *kept,
    ]


def make(cell: Cell, options: Mapping[str, float], patience: Sequence[type[Exception]]) -> None:
    """Runs a cell; an error that belongs to the method is kept beside the run.

    Args:
        cell: what to run.
        options: the row's settings.
        patience: kinds of errors that a method may end in.
    """
    words = command(cell, options)
    if "--ckpt_path" not in words:
        shutil.rmtree(cell.folder.parent, ignore_errors=True)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        train.main(words)
    except SystemExit:  # interrupted
        if cell.row in cell.board.together:
            (cell.folder / FINISHED).unlink(missing_ok=True)
        raise
    except tuple(patience) as error:
        cell.folder.mkdir(parents=True, exist_ok=True)
        told = {"error": f"{type(error).__name__}: {error}", "edits": cell.made}
        write_json(cell.folder / FAILED, told)
    finally:
        for number, handler in handlers.items():  # the run's own outlive it
            signal.signal(number, handler)
    gc.collect()
