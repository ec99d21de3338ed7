"""The run that ``--ckpt_path last`` refers to: the newest one in its experiment's folder."""

from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_only

from .run_folder import rewind


class LastRun(NamedTuple):
    """A run that can be resumed.

    Attributes:
        version: its number.
        checkpoint: the state after its last edit; None if it was killed before the first.
    """

    version: int
    checkpoint: Path | None


def last_run(experiment: Path, begun: bool) -> LastRun:
    """The newest run in an experiment's folder.

    Args:
        experiment: the folder with one subfolder per run.
        begun: whether to accept a run that was killed in its first edit; its journal is emptied.

    Raises:
        ValueError: if there is none.
    """
    numbered = {
        int(n): run for run in experiment.glob("version_*") if (n := run.name[8:]).isdigit()
    }
    for version, run in sorted(numbered.items(), reverse=True):
        saved = list(run.glob("checkpoints/*.ckpt"))
        if saved:
            return LastRun(version, max(saved, key=lambda file: file.stat().st_mtime))
        if begun and (run / "edits.jsonl").exists() and not (run / "summary.json").exists():
            rank_zero_only(rewind)(run / "edits.jsonl", 0)
            return LastRun(version, None)
    raise ValueError(
        f"--ckpt_path last: no run in {experiment} has saved anything; leave it out, or name a "
        "checkpoint's file"
    )
