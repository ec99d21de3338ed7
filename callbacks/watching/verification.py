"""Whether a run's folder claims what its ledger's model does."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import yaml
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.jobs.verify import Verify

from ..keeping.means import mean_scores
from ..keeping.run_folder import read_journal, write_json
from .perplexity import CorpusPerplexity
from .standing import FILE, Standing, protocols, read_standing

TOLD = 5  # differences that the error names
AT_EDIT = ("efficacy", "paraphrase", "neighborhood")
REPORT = "verified.json"


class Claim(NamedTuple):
    """A figure of a run's folder, and the same measured again."""

    what: str
    claimed: float
    found: float

    def differs(self, tolerance: float) -> bool:
        """Whether they differ by more than this share of the claimed figure, or of 1."""
        if not math.isfinite(self.claimed):
            return math.isfinite(self.found)
        return not abs(self.found - self.claimed) <= tolerance * max(1.0, abs(self.claimed))


class Verification(L.Callback):
    """Compares the journal and ``standing.jsonl`` of ``--model.ledger`` with its rebuilt model.

    It checks that the edited requests are those that the run's data options draw, the mean scores
    at the edits, the perplexity after every ``every_n_edits`` edits and after the last, and the
    mean of each score over all edits at the end. ``verified.json`` is written to the run's folder.

    Args:
        tolerance: largest difference of a mean score, and largest relative one of a perplexity.
            On the machine of the run both are 0; another one's rounding may turn a duel.
        every_n_edits: edits between two perplexities.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(self, tolerance: float = 0.005, every_n_edits: int = 10) -> None:
        if tolerance <= 0 or every_n_edits <= 0:
            raise ValueError(
                f"tolerance and every_n_edits must be positive, got {tolerance} and {every_n_edits}"
            )
        self.tolerance = tolerance
        self.every_n_edits = every_n_edits
        self.claims: list[Claim] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: Verify) -> None:
        """Repeats the edits one by one, and judges as the run did.

        Raises:
            ValueError: if the folder lacks a file, or its requests are not those of its options.
        """
        run, data = pl_module.run, trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        self.standing, self.journal = last_lines(run), read_journal(run)
        require_requests(run, self.journal, self.standing, data.requests)
        self.claims = list(self.edit_by_edit(pl_module, data))

    def edit_by_edit(self, editor: Verify, data: Any) -> Iterator[Claim]:
        """Mean scores at the edits, and the perplexity after some of them."""
        journal = {line["edit"]: line for line in self.journal}
        claimed, found = [], []
        editor.begin_again()
        for entry in editor.chosen():
            editor.repeat(entry)
            line = journal.get(entry.edit, {})
            due = entry.edit % self.every_n_edits == 0 or entry is editor.entries[-1]
            if due and line.get("perplexity") is not None:
                what = f"perplexity after edit {entry.edit}"
                yield Claim(what, line["perplexity"], perplexity(editor, data))
            if "efficacy" in line:
                claimed.append({name: line[name] for name in AT_EDIT if name in line})
                found.append(mean_scores(editor.judge_all(entry.requests())))
        means, again = mean_scores(claimed), mean_scores(found)
        for name, value in means.items():
            yield Claim(f"{name} at the edit", value, again.get(name, math.nan))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Verify) -> None:
        """Judges all edits again and compares.

        Raises:
            ValueError: if the folder claims something else.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        known = {request.identity: request for request in data.requests}
        requests = [known[line["identity"]] for line in self.standing]
        writer = standing_of(pl_module.run).writer_of(pl_module)
        found = mean_scores(protocols(pl_module, requests, data, writer))
        claimed = mean_scores([only_scores(line) for line in self.standing])
        names = sorted(found.keys() | claimed.keys())
        self.claims += [
            Claim(name, claimed.get(name, math.nan), found.get(name, math.nan)) for name in names
        ]
        wrong = [claim for claim in self.claims if claim.differs(self.tolerance)]
        write_json(pl_module.run / REPORT, report(self.claims, wrong, self.tolerance))
        if wrong:
            told = "; ".join(f"{c.what} {c.claimed:.6g}, found {c.found:.6g}" for c in wrong[:TOLD])
            raise ValueError(
                f"{pl_module.run} claims what its ledger does not hold: {told}"
                + (f" and {len(wrong) - TOLD} more" if len(wrong) > TOLD else "")
            )
        rank_zero_info(
            f"Verified {pl_module.run}: {len(self.claims)} figures of {len(requests)} edits agree "
            f"within {self.tolerance:g}"
        )


def report(claims: Sequence[Claim], wrong: Sequence[Claim], tolerance: float) -> dict[str, Any]:
    """What ``verified.json`` says."""
    largest = max((abs(claim.found - claim.claimed) for claim in claims), default=0.0)
    return {
        "agrees": not wrong,
        "figures": len(claims),
        "tolerance": tolerance,
        "largest_difference": largest,
        "wrong": [claim._asdict() for claim in wrong],
    }


def last_lines(run: Path) -> list[dict[str, Any]]:
    """A run's claims after its last edit.

    Raises:
        ValueError: if it makes none.
    """
    lines = read_standing(run / FILE)
    if not lines:
        raise ValueError(
            f"{run} has no {FILE}: it was not run with --config leaderboard/protocol.yaml, or by "
            "an older version; run it again"
        )
    return [line for line in lines if line["after"] == lines[-1]["after"]]


def require_requests(
    run: Path,
    journal: Sequence[dict[str, Any]],
    standing: Sequence[dict[str, Any]],
    requests: Sequence[Any],
) -> None:
    """Refuses a run that edited other requests than its options draw.

    Raises:
        ValueError: if it did.
    """
    drawn = {request.identity: request for request in requests}
    strange = [line["identity"] for line in standing if line["identity"] not in drawn]
    cases = {request.case_id for request in requests}
    for line in journal:
        told = line["case_id"] if isinstance(line["case_id"], list) else [line["case_id"]]
        strange += [str(case) for case in told if case not in cases]
    if strange:
        raise ValueError(
            f"{run} holds edits of requests that its config.yaml does not draw, such as "
            f"{strange[0]}: a submission takes the board's part, seed and limit as they are"
        )


def standing_of(run: Path) -> Standing:
    """The run's own ``Standing``, as its config says.

    Raises:
        ValueError: if its config has none.
    """
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text("utf-8")) if file.is_file() else {}
    for callback in (config.get("trainer") or {}).get("callbacks") or []:
        if callback["class_path"].endswith(f".{Standing.__name__}"):
            return Standing(**(callback.get("init_args") or {}))
    raise ValueError(f"{file} names no Standing; run it with --config leaderboard/protocol.yaml")


def only_scores(line: dict[str, Any]) -> dict[str, float]:
    """A line's scores, without its request and the model's perplexity."""
    aside = ("after", "identity", "perplexity")
    return {name: value for name, value in line.items() if name not in aside}


def perplexity(editor: Verify, data: Any) -> float:
    """Of the watched text, on the current model."""
    metric = CorpusPerplexity()
    for batch in data.val_dataloader():
        scores = editor.watch(batch)
        metric.update(scores.nll, scores.length)
    return metric.compute()["perplexity"]
