"""TensorBoard's CUSTOM SCALARS: a few charts that answer a question each."""

import re
from collections.abc import Iterable
from typing import Any

Layout = dict[str, dict[str, list[Any]]]

LIMIT = "health/log_collapse_limit"
Charts = dict[str, tuple[str, ...]]  # the tags of each chart's lines, as regular expressions
CHARTS: dict[str, Charts] = {  # by category
    "Health": {
        "log perplexity of watched text, and the collapse limit (nats)": (
            "health/log_perplexity",
            LIMIT,
        ),
        "downstream tasks (accuracy, exact match or F1)": ("tasks/.*",),
    },
    "Edit quality": {
        "after the edit, P(new) > P(true) (ROME's evaluation)": (
            "scores_rome/(efficacy|paraphrase|neighborhood)",
        ),
        "after the edit, greedy and exact": (
            "scores_exact/(efficacy|paraphrase|neighborhood)_exact_match",
        ),
        "after the edit, in free generation": ("scores_generation/.*_generation",),
    },
    "Keys": {
        "denominator of the update (tiny: the model is in danger)": ("edit/denominator",),
        "cosine of plain and mean key": ("edit/key_cosine",),
        "size of the change": ("edit/update_norm",),
        "loss of the value search (nats)": ("edit/value_loss",),
    },
    "Early warning": {
        "distance of hidden states from the unedited model's (relative)": ("warning/state_drift",),
        "change of the weights (relative)": ("warning/(norm_growth|weight_change)",),
        "overlap of leading singular spaces with the original's (share)": ("warning/overlap_.*",),
        "entropy of sampled texts (bits)": ("warning/text_entropy",),
    },
    "Cost": {"seconds per edit, and for watching": ("cost/seconds_.*",)},
}


def layout(tags: Iterable[str]) -> Layout:
    """The charts that have a line, for ``SummaryWriter.add_custom_scalars``.

    Args:
        tags: of the scalars that a run sends.
    """
    known = list(tags)
    found: Layout = {}
    for category, charts in CHARTS.items():
        drawn: dict[str, list[Any]] = {
            title: ["Multiline", [f"{line}$" for line in lines]]
            for title, lines in charts.items()
            if any(re.fullmatch(line, tag) for line in lines for tag in known)
        }
        if drawn:
            found[category] = drawn
    return found
