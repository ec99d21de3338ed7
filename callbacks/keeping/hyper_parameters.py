"""What distinguishes a run from others, and its outcome: a row of TensorBoard's HPARAMS."""

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import lightning as L

from lightning_modules.editing.editor import Editor
from lightning_modules.functional.value_search import ValueSearchOptions

from .schedule import restores
from .summary import numbers, summarize

LEFT_OUT = ("method", "lm", "layers", "value", "fingerprint", "weights", "contexts", "test_prefix")
FINAL = ("applied", "collapsed", "collapsed_at", "score", "final_perplexity", "highest_perplexity")
MEANS = ("efficacy", "paraphrase", "neighborhood", "seconds_edit")
OUTCOME = [f"final/{name}" for name in (*FINAL, *MEANS, "rolled_back", "log_perplexity", "stated")]
ALWAYS = ("steps", "learning_rate")  # of the value search; others if they are not the defaults
CEILING = 100 * math.log(10)  # stands for the logarithm of an infinite perplexity


def hyper_parameters(trainer: L.Trainer, editor: Editor) -> dict[str, float | str]:
    """Method, model, layers, the method's own settings, its value search, and the data.

    Settings that are off are left out, so that the columns are those in which runs differ.
    """
    card, data = editor.card(), trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
    found = {
        "method": card["method"],
        "model": Path(card["lm"]).name,
        "layers": in_words(card.get("layers", [])),
        **{name: value for name, value in card.items() if name not in LEFT_OUT},
        **dict(_search(card.get("value", {}))),
        "contexts": len(card.get("contexts", [])),
        "transform": type(editor.transform).__name__ if editor.transform else None,
        "edits_from": "the original model" if restores(trainer) else "the edited model",
        **dict(_data(data)),
    }
    return {name: _plain(value) for name, value in found.items() if not _off(value)}


def outcome(summary: Mapping[str, Any]) -> dict[str, float]:
    """The finite figures of a run's summary that compare it with others, as ``final/NAME``."""
    final = {name: summary[name] for name in FINAL} | {"rolled_back": len(summary["rolled_back"])}
    final |= {name: summary["means"][name] for name in MEANS if name in summary["means"]}
    if summary["final_perplexity"] is not None:
        final["log_perplexity"] = drawn(math.log(summary["final_perplexity"]))
    if summary.get("stated", {}).get("facts"):
        final["stated"] = summary["stated"]["stated"] / summary["stated"]["facts"]
    figures = numbers(final)
    return {f"final/{name}": value for name, value in figures.items() if math.isfinite(value)}


def unedited(baseline: Mapping[str, float]) -> dict[str, float]:
    """The same before the first edit."""
    perplexity = dict.fromkeys(
        ("final_perplexity", "highest_perplexity"), baseline.get("perplexity")
    )
    return outcome(summarize([], dict(baseline)) | perplexity)


def drawn(log_perplexity: float) -> float:
    """A perplexity's logarithm as it is drawn: at a ceiling if it is not finite, or above."""
    return CEILING if math.isnan(log_perplexity) else min(log_perplexity, CEILING)


def in_words(layers: list[int]) -> str:
    """Layers as ranges, such as ``3-7, 9``."""
    runs = [list(run) for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    ends = [(run[0][1], run[-1][1]) for run in runs]
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ends)


def _search(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The value search's options that matter."""
    usual = vars(ValueSearchOptions())
    for name, value in options.items():
        if name in ALWAYS or value != usual.get(name):
            yield f"value.{name}", value


def _data(data: Any) -> Iterator[tuple[str, Any]]:
    """Where the requests come from, how many there are, and how many make an edit."""
    path = getattr(data, "path", None)
    files = [path] if isinstance(path, str) else path or ["embedded"]
    yield "data", ", ".join(Path(file).name for file in files)
    yield "data.requests", len(getattr(data, "requests", ()))
    for name in ("batch_size", "seed"):
        yield f"data.{name}", getattr(data, name, None)


def _off(value: Any) -> bool:
    return value is None or value is False or value == "off"


def _plain(value: Any) -> float | str:
    return value if isinstance(value, int | float | str) else str(value)
