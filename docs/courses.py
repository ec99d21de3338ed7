"""A model under one method, edit after edit: a row of the table in docs/methods.md."""

import logging
import math
import warnings
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor
from transformers.utils.logging import disable_progress_bar

import train
from callbacks.keeping.means import mean_scores
from callbacks.watching.collapse import CollapseStopping
from callbacks.watching.perplexity import CorpusPerplexity
from data_modules.meta_training import held_out
from data_modules.records import EditRequest, one_word_first
from docs.tables import SCORES
from lightning_modules.methods.localized_fine_tuning import LocalizedFineTuning

KINDS = ("normal", "one word first")
MARKS = (1, 10, 50, 200)
EVERY = 10  # edits between two measurements, after the first that many


class Job(NamedTuple):
    """One method on one kind of requests, and how many edits are asked for."""

    method: str
    kind: str
    edits: int


class Course:
    """Perplexity and retention of a model over its edits.

    Args:
        cli: a config's editor, data and collapse limit.
        kind: of the requests; those that MEND was not trained on come first.
        edits: how many requests are edited, at most.
    """

    def __init__(self, cli: Any, kind: str, edits: int) -> None:
        self.editor, self.data, self.trainer = cli.model, cli.datamodule, cli.trainer
        self.data.limit, self.data.seed = None, None
        self.data.setup("fit")
        of_kind = [
            r
            for r in self.data.requests
            if one_word_first(r.prompt, r.subject) == (kind != "normal")
        ]
        self.requests = sorted(of_kind, key=lambda r: not held_out(r))[:edits]
        self.marks = {min(mark, len(self.requests)) for mark in marks(edits)}
        self.editor.configure_model()
        self.editor.prepare()
        self.curve = [(0, self.perplexity())]
        stopping = next(c for c in self.trainer.callbacks if isinstance(c, CollapseStopping))
        self.limit = stopping.limit(self.curve[0][1])
        self.retained: dict[int, dict[str, float]] = {}
        self.collapsed: int | None = None
        self.failed = 0

    def perplexity(self) -> float:
        """Perplexity of the watched sentences on the current model."""
        metric = CorpusPerplexity()
        for batch in self.data.val_dataloader():
            scores = self.editor.watch(batch)
            metric.update(scores.nll, scores.length)
        return metric.compute()["perplexity"]

    def edit(self, requests: Sequence[EditRequest]) -> None:
        """Makes one edit."""
        self.editor.record = {}
        self.editor.make_edit(requests)
        self.failed += self.editor.record["status"] == "failed"

    def look(self, number: int) -> bool:
        """Measures the perplexity after an edit; returns whether the model has collapsed."""
        found = self.perplexity()
        collapsed = not math.isfinite(found) or found > self.limit
        if collapsed:
            self.collapsed = number
        self.curve.append((number, found))
        return collapsed

    def judge(self, number: int) -> None:
        """Evaluates all edits so far on the current model: retention."""
        judged = [self.editor.judge(request) for request in self.requests[:number]]
        self.retained[number] = {name: mean_scores(judged)[name] for name in SCORES}

    def one_by_one(self) -> None:
        """Edits one request after another, until the model collapses.

        It measures every edit up to the tenth, then every tenth; after a collapse it finds the edit
        from the stored weights in between.
        """
        unseen: list[tuple[int, dict[str, Tensor]]] = []
        for number, request in enumerate(self.requests, 1):
            self.edit([request])
            unseen.append((number, self.editor.edited.snapshot()))
            if number > EVERY and number % EVERY and number not in self.marks:
                continue
            if self.look(number):
                self.curve.pop()
                for edit, weights in unseen:
                    self.editor.edited.assign(weights)
                    if self.look(edit):
                        break
            if self.curve[-1][0] in self.marks:
                self.judge(self.curve[-1][0])
            if self.collapsed is not None:
                return
            unseen = []

    def all_at_once(self) -> None:
        """Trains on the requests of each mark, every time from the original model."""
        goal = self.trainer.early_stopping_callback.stopping_threshold
        for mark in sorted(self.marks):
            self.editor.restore()
            self.data.requests = self.requests[:mark]
            loader = self.data.train_dataloader()
            for epoch in range(self.trainer.max_epochs):
                losses = []
                if self.data.shuffle:
                    loader.sampler.set_epoch(epoch)
                for batch in loader:
                    self.edit(batch)
                    losses += [self.editor.record["loss"]] * len(batch)
                if fmean(losses) < goal:
                    break
            collapsed = self.look(mark)
            self.judge(mark)
            if collapsed:
                return


def run(job: Job) -> dict[str, Any]:
    """One row of the table."""
    quiet()
    limit = "--collapse.threshold=1000"  # the papers'
    cli = train.main(["--config", f"{job.method}.yaml", limit], run=False)
    course = Course(cli, job.kind, job.edits)
    breadth_first = isinstance(cli.model, LocalizedFineTuning)
    course.all_at_once() if breadth_first else course.one_by_one()
    return job._asdict() | {
        "available": len(course.requests),
        "collapsed": course.collapsed,
        "failed": course.failed,
        "curve": course.curve,
        "retained": list(course.retained.items()),
        "limit": course.limit,
    }


def quiet() -> None:
    """Leaves the terminal to what this command says."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def marks(edits: int) -> list[int]:
    """After how many edits all are judged."""
    return sorted({mark for mark in MARKS if mark < edits} | {edits})
