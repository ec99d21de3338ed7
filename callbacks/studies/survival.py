"""Whether edits survive what happens to a model later: rounding, further training, chat."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from scipy.stats import binomtest

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replies import replies
from lightning_modules.jobs.treated import TREATMENTS, TreatedModel, treated
from lightning_modules.language_model.matching import names

from ..keeping.run_folder import folder_of, write_json
from ..watching.figures import INK, SHARP, WIDE, publish
from ..watching.perplexity import CorpusPerplexity

SCORES = ("efficacy", "efficacy_exact_match", "paraphrase", "neighborhood")
REPLY = 32  # tokens: a whole sentence, as chat models answer


class EditSurvival(L.Callback):
    """Treats copies of the edited model when training ends, and judges all edits of the run again.

    An edit is stated if every token of its answer is the greedy choice, and named if its answer
    is in the reply of 32 tokens. Writes ``survival.json`` and ``survival.png``. A tokenizer without
    a chat template leaves ``chat`` out.

    Args:
        treatments: see ``lightning_modules/jobs/treated.py``.
        steps: of the training by LoRA, one embedded sentence each; watched ones are left out.

    Raises:
        ValueError: if a treatment is unknown, or the number of steps is not positive.
    """

    def __init__(self, treatments: Sequence[str] = TREATMENTS, steps: int = 100) -> None:
        unknown = [name for name in treatments if name not in TREATMENTS]
        if unknown:
            raise ValueError(f"treatments {unknown} are unknown; choose from {list(TREATMENTS)}")
        if steps <= 0:
            raise ValueError(f"steps must be positive, got {steps}")
        self.treatments = list(treatments)
        self.steps = steps

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Judges, writes and draws; only the first device does."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        requests = [r for r in data.requests if r.identity in pl_module.edited_requests]
        if not trainer.is_global_zero or not requests:
            return
        found: dict[str, dict[str, float]] = {}
        for name in self.treatments:
            if name == "chat" and pl_module.tokenizer.chat_template is None:
                continue
            rank_zero_info(f"Judging {len(requests)} edits after the treatment: {name}")
            copy = treated(pl_module, name, data.unwatched(), self.steps)
            found[name] = judgement(copy, requests, data)
        content = {"method": type(pl_module).__name__, "edits": len(requests), "scores": found}
        write_json(folder_of(trainer) / "survival.json", content)
        publish(trainer, survival_figure(found, len(requests)), "survival")
        shares = ", ".join(f"{n} {s['efficacy_exact_match']:.0%}" for n, s in found.items())
        rank_zero_info(f"Edits still stated: {shares}")


def judgement(model: TreatedModel, requests: Sequence[EditRequest], data: Any) -> dict[str, float]:
    """Mean scores of the requests that have them, and the perplexity of the watched text."""
    scores = model.judge_all(requests)
    found = {
        name: fmean(known)
        for name in SCORES
        if (known := [score[name] for score in scores if name in score])
    }
    said = zip(replies(model, requests, REPLY), requests, strict=True)
    found["named"] = fmean(names(reply, request.target_new) for reply, request in said)
    metric = CorpusPerplexity()
    for batch in data.val_dataloader():
        watched = model.watch(batch)
        metric.update(watched.nll, watched.length)
    return found | ({"perplexity": metric.compute()["perplexity"]} if data.watched else {})


def survival_figure(found: dict[str, dict[str, float]], edits: int) -> Figure:
    """The share of edits stated and named after each treatment, with Wilson's 95 % interval."""
    figure = Figure(figsize=WIDE, dpi=SHARP, layout="constrained")
    axes = figure.subplots()
    marks = {"efficacy_exact_match": ("stated", -0.12, "o"), "named": ("named", 0.12, "s")}
    for score, (label, shift, marker) in marks.items():
        places = [place + shift for place in range(len(found))]
        shares = [scores[score] for scores in found.values()]
        for place, share in zip(places, shares, strict=True):
            interval = binomtest(round(share * edits), edits).proportion_ci(method="wilson")
            axes.hlines(place, *interval, color=INK, linewidth=1.5)
        fill = INK if marker == "o" else "white"
        axes.plot(shares, places, marker, color=INK, markerfacecolor=fill, label=label)
    axes.set(yticks=range(len(found)), yticklabels=list(found), xlim=(-0.02, 1.02))
    axes.set_xlabel(f"share of {edits} edits")
    axes.invert_yaxis()
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    return figure
