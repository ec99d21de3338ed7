"""What removing an edit leaves behind: python -m docs.removals writes docs/removals.json.

Runs of six edits of embedded facts on the embedded model; each of the first five is removed.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

import train
from callbacks.watching.perplexity import CorpusPerplexity
from data_modules.embedded import embedded_requests, embedded_sentences
from data_modules.records import EditRequest, WatchedText
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.ledger import Entry, read_ledger, shard_file, write_entry
from lightning_modules.jobs.removal import Removal, can_refit, without

FILE = Path(__file__).with_suffix(".json")
RUNS = {"c_rome": 2, "memit-seq": 4, "alpha_edit": 4}  # by config
EDITS = 6  # of a run
HOW: tuple[Removal, ...] = ("subtract", "refit", "again")


class Removed(NamedTuple):
    """One edit removed in one way; ``again`` has the bits of a run that never had the edit.

    Attributes:
        method: its config.
        edit: its number in the run.
        how: the way.
        distance: to the model that never had the edit, over the size of that model's change.
        stated: share of the later facts that are stated, token by token.
        perplexity: of the embedded sentences.
    """

    method: str
    edit: int
    how: str
    distance: float
    stated: float
    perplexity: float


def editor_of(config: str) -> Editor:
    """A config's method on the embedded model, ready to edit."""
    editor: Any = train.main(["--config", f"{config}.yaml"], run=False).model
    editor.configure_model()
    editor.prepare()
    return editor


def ran(editor: Editor, requests: Sequence[EditRequest], folder: Path) -> list[Entry]:
    """The ledger of a run of single requests."""
    editor.restore()
    for edit, request in enumerate(requests, 1):
        editor.make_edit([request])
        names = [update.weight for update in editor.applied]
        identity = (edit, edit - 1, [request.case_id], [request.identity], editor.fingerprint)
        entry = Entry(*identity, names, shard_file(folder, edit))
        write_entry(entry, [request], editor.applied)
    return read_ledger(folder)


def distance(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Frobenius norm of a difference, over all weights."""
    squares = [(weights[name] - other).double().square().sum() for name, other in others.items()]
    return float(torch.stack(squares).sum().sqrt())


def perplexity(editor: Editor) -> float:
    """Mean perplexity of the first fifty embedded sentences."""
    texts = embedded_sentences()[:50]
    scores, metric = editor.watch(WatchedText(list(range(50)), texts)), CorpusPerplexity()
    metric.update(scores.nll, scores.length)
    return metric.compute()["perplexity"]


def stated(editor: Editor, entries: Sequence[Entry]) -> float:
    """Share of the edits' facts that the model states."""
    facts = [request for entry in entries for request in entry.requests()]
    bare = [fact._replace(paraphrases=(), neighborhood=()) for fact in facts]
    return mean(found["efficacy_exact_match"] for found in editor.judge_all(bare))


def removals(config: str, editor: Editor, entries: Sequence[Entry]) -> Iterator[Removed]:
    """Every edit of a run but the last, removed in every way that its method has."""
    for gone in entries[:-1]:
        kept = [entry for entry in entries if entry != gone]
        later = [entry for entry in kept if entry.edit > gone.edit]
        clean: dict[str, Tensor] = {}
        for how in reversed(HOW):
            if how == "refit" and not can_refit(editor):
                continue
            editor.restore()
            if how == "subtract":
                for update in (update for entry in kept for update in entry.updates()):
                    editor.edited.apply(update)
            else:
                without(editor, entries, kept, how)
            weights = editor.edited.snapshot()
            clean = clean or weights
            size = distance(clean, editor.original)
            measured = distance(weights, clean) / size, stated(editor, later), perplexity(editor)
            yield Removed(config, gone.edit, how, *measured)


def table(rows: Sequence[Removed]) -> Iterator[str]:
    """Figures by method and way, as a table in Markdown."""
    yield "| method | removal | edits | distance: median | largest | later facts | perplexity |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for method, how in ((method, how) for method in RUNS for how in HOW):
        own = [row for row in rows if (row.method, row.how) == (method, how)]
        if own:
            far = [row.distance for row in own]
            facts, perplexed = mean(r.stated for r in own), mean(r.perplexity for r in own)
            yield (
                f"| {method} | `{how}` | {len(own)} | {median(far):.3g} | {max(far):.3g} | "
                f"{100 * facts:.1f} % | {perplexed:.1f} |"
            )


def main() -> None:
    """Measures, writes the figures, and shows the table."""
    requests, rows = embedded_requests(), list[Removed]()
    for config, runs in RUNS.items():
        editor = editor_of(config)
        for number in range(runs):
            with TemporaryDirectory() as folder:
                chosen = requests[EDITS * number : EDITS * (number + 1)]
                rows += removals(config, editor, ran(editor, chosen, Path(folder)))
            FILE.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", "utf-8")
    sys.stdout.write("\n".join(table(rows)) + "\n")


if __name__ == "__main__":
    main()
