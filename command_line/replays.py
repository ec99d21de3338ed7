"""What a replay takes from its run: the model, its requests, and the text it was watched on."""

import argparse
import inspect
from pathlib import Path
from typing import Any

import yaml

from data_modules.edit_requests import EditingDataModule
from lightning_modules.editing.ledger import files_of
from lightning_modules.editing.watched import WatchedModel
from lightning_modules.jobs.compare import Compare
from lightning_modules.jobs.replay import Replay
from lightning_modules.jobs.verify import Verify

OF_MODEL = (
    *("lm", "dtype", "trust_remote_code", "first_position"),
    *("chat", "separator", "end_of_target"),
)
OF_DATA = ("batch_size", "watch", "watch_unit")
DRAWN = ("path", "seed", "limit", "case_ids", "watch_limit")  # which requests a submission edited


def complete(options: argparse.Namespace) -> None:
    """Gives a replay the values of its run where the command line leaves them at their defaults.

    Without ``--data.path``, its requests are those of its ledgers; a verification draws them anew.

    Args:
        options: of a verb; changed in place.
    """
    if options.model.class_path not in map(path_of, (Replay, Compare, Verify)):
        return
    replay, data = options.model.init_args, options.data.init_args
    ledgers = [replay.ledger] if isinstance(replay.ledger, str) else replay.ledger
    made = Path(ledgers[0]) / "config.yaml"
    run: dict[str, Any] = yaml.safe_load(made.read_text("utf-8")) if made.is_file() else {}
    take(replay, arguments(run, "model"), OF_MODEL, WatchedModel)
    if options.model.class_path == path_of(Verify):
        take(data, arguments(run, "data"), (*OF_DATA, *DRAWN), EditingDataModule)
        return
    if "path" in data and data.path is None:
        take(data, arguments(run, "data"), OF_DATA, EditingDataModule)
        for ledger in map(Path, ledgers):
            if (ledger / "edits.jsonl").is_file():
                files_of(ledger)  # of a run without one the reader would demand a file
        data.path = replay.ledger


def path_of(kind: type) -> str:
    """The dotted path of a class."""
    return f"{kind.__module__}.{kind.__name__}"


def take(
    own: argparse.Namespace, given: dict[str, Any], names: tuple[str, ...], kind: type
) -> None:
    """Copies arguments that stand at their defaults.

    Args:
        own: arguments to fill in.
        given: those of the run.
        names: of the arguments.
        kind: the class that declares their defaults.
    """
    known = inspect.signature(kind).parameters
    for name in names:
        if name in given and own.get(name) == known[name].default:
            setattr(own, name, given[name])


def arguments(run: dict[str, Any], group: str) -> dict[str, Any]:
    """The arguments of a run's model or data, from its saved config."""
    return (run.get(group) or {}).get("init_args") or {}
