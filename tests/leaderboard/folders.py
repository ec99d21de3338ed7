"""Run folders of a small board, written by hand."""

import json
from pathlib import Path

from data_modules.embedded import embedded_requests
from data_modules.meta_training import held_out
from docs.leaderboard.boards import Board, Tuning

REQUESTS = [request for request in embedded_requests() if held_out(request)]
BOARD = Board(
    name="small",
    title="A small model",
    options="",
    reference="rome",
    scores_against="rome",
    seeds=(0, 1, 2),
    batch=1,
    lengths=(2, 4),
    tuning=Tuning(1, 2, 0),
    together=("locft-bf",),
    rows=("rome", "memit", "no-edit", "locft-bf"),
)
SCORES = {
    "efficacy": 1.0, "efficacy_exact_match": 1.0, "efficacy_generation": 1.0, "paraphrase": 0.5,
    "neighborhood": 0.5, "neighborhood_agreement": 0.5, "negation": 0.0,
}  # fmt: skip


def write_run(
    runs: Path,
    row: str,
    seed: int,
    edits: int,
    collapsed: bool = False,
    tasks: tuple[float, ...] = (),
    name: str | None = None,
    **scores: float,
) -> Path:
    """A finished run; ``tasks`` holds the score after every edit, 0.5 by default."""
    folder = runs / BOARD.name / row / (name or f"seed-{seed}") / "version_0"
    folder.mkdir(parents=True)
    journal, standing = [], []
    for edit in range(1, edits + 1):
        request = REQUESTS[edit + 10 * seed]
        dead = collapsed and edit == edits
        journal.append(
            {
                "edit": edit, "case_id": request.case_id, "status": "applied",
                "perplexity": 5e3 if dead else 200.0, "collapsed": dead,
                "tasks": {"piqa": tasks[edit - 1] if tasks else 0.5}, **SCORES, **scores,
            }
        )  # fmt: skip
        if edit in (1, 2, 4) or dead:
            for earlier in range(1, edit + 1):
                held = REQUESTS[earlier + 10 * seed]
                line = {"after": edit, "identity": held.identity, "perplexity": 200.0}
                standing.append(line | SCORES | scores)
    lines = {"edits.jsonl": journal, "standing.jsonl": standing}
    for file, content in lines.items():
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in content))
    baseline = {"perplexity": 190.0, "tasks/piqa": 0.5}
    (folder / "summary.json").write_text(json.dumps({"baseline": baseline}))
    (folder / "finished").write_text("")
    return folder
