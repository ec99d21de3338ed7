"""Tables and the picture of docs/warning.md, from the folders of runs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.keeping.run_folder import read_journal, write_json
from callbacks.studies.early_warning import (
    EVENTS,
    SIGNALS,
    Course,
    Estimate,
    Verdict,
    course_of,
    first,
    limit_of,
    verdict,
)
from docs.tables import markdown, percent, read

HEADS = {
    "perplexity": "perplexity above 5 times the unedited",
    "tasks_10": "tasks lost 10 %",
    "tasks_1": "tasks lost 1 %",
}
NAMES = {name: name.replace("_", " ") for name in SIGNALS} | {"perplexity_pooled": "pooled"}
OF_THE_METHOD = ("denominator",)  # what only the run that made an edit knows
TOLD = ("perplexity", "tasks", "state_drift", "weight_change", "overlap_input", "update_norm")
SHOWN = {  # signals in the picture of one run: line styles
    "perplexity": "-",
    "tasks": ":",
    "state_drift": "--",
    "weight_change": "-.",
}
LOOKS = {"perplexity": ("black", "o", "full"), "tasks_10": ("0.5", "s", "none")}


def course(run: Path, fold: str) -> Course:
    """The course of a run; a replay's with the denominators of the run that it repeats."""
    folder = run / "version_0"
    edits, baseline = read_journal(folder), read(folder / "summary.json")["baseline"]
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    ledger = config["model"]["init_args"].get("ledger")
    told = {e["edit"]: e for e in (read_journal(Path(ledger)) if ledger else [])}
    known = [
        {n: told[e["edit"]][n] for n in OF_THE_METHOD if n in told.get(e["edit"], {})} | e
        for e in edits
    ]
    return course_of(known, baseline, fold)


def courses(runs: Mapping[str, Path]) -> dict[str, Course]:
    """Courses by run; the method, before the seed in the name, is the fold."""
    return {name: course(run, name.partition("-seed")[0]) for name, run in runs.items()}


def verdicts(runs: Mapping[str, Path], pictures: Path) -> str:
    """Events of the runs, a table of verdicts per event, and the picture; writes the numbers.

    Args:
        runs: of the embedded model.
        pictures: folder of the picture and of ``numbers.json``.
    """
    known = courses(runs)
    found = {
        event: {name: verdict(list(known.values()), event, name) for name in SIGNALS}
        for event in EVENTS
    }
    pictures.mkdir(exist_ok=True)
    numbers = {
        event: {name: plain(one) for name, one in each.items() if one}
        for event, each in found.items()
    }
    write_json(pictures / "numbers.json", numbers)
    picture(found, known).savefig(pictures / "warning.png")
    parts = [occurrences(known)]
    for event, each in found.items():
        title = f"**Event: {HEADS[event]}.**"
        parts.append(f"{title}\n\n{markdown([HEAD, *rows(each)])}" if any(each.values()) else "")
    return "\n\n".join(
        [*filter(None, parts), "![lead and area of each signal](warning/warning.png)"]
    )


HEAD = (
    *("signal", "runs", "warned %", "95 %", "lead", "95 %", "lead less perplexity's", "95 %"),
    *("AUROC", "95 %", "false alarms: runs", "edits", "limit"),
)


def rows(each: Mapping[str, Verdict | None]) -> Iterator[Sequence[Any]]:
    """A row per signal that has a verdict."""
    for name, one in each.items():
        if one is None:
            continue
        alarmed = round(one.false_runs * one.healthy)
        yield (
            NAMES[name],
            one.runs,
            percent(one.warned.value),
            between(one.warned, 100, 0),
            round(one.lead.value, 1),
            between(one.lead, 1, 1),
            round(one.gain.value, 1),
            between(one.gain, 1, 1),
            f"{one.auroc.value:.2f}",
            between(one.auroc, 1, 2),
            f"{alarmed} of {one.healthy}",
            f"{percent(one.false_edits)} %",
            f"{one.limit:.3g}",
        )


def between(found: Estimate, scale: float, digits: int) -> str:
    """An interval; - without one."""
    if math.isnan(found.low):
        return "-"
    return f"{scale * found.low:.{digits}f} to {scale * found.high:.{digits}f}"


def plain(found: Verdict) -> dict[str, Any]:
    """A verdict as JSON: an estimate is a map."""
    return {
        name: value._asdict() if isinstance(value, Estimate) else value
        for name, value in found._asdict().items()
    }


def occurrences(known: Mapping[str, Course]) -> str:
    """The edit of each event, by run."""
    head = ("run", "edits", *HEADS.values())
    return markdown([head, *((name, last(c), *edits_of(c)) for name, c in known.items())])


def last(run: Course) -> int:
    """The last measured edit."""
    return int(run.numbers[-1])


def edits_of(run: Course) -> list[int | None]:
    """The edit of each event; None if it did not occur."""
    return [None if at is None else int(run.numbers[at]) for at in map(run.events.get, HEADS)]


def transferred(embedded: Mapping[str, Path], runs: Mapping[str, Path]) -> str:
    """First alarms on another model, by the limits of the embedded one's healthy runs.

    Args:
        embedded: runs that the limits come from: those whose perplexity stays within its limit.
        runs: of the other model.
    """
    healthy = [run for run in courses(embedded).values() if run.events["perplexity"] is None]
    limits = {
        name: limit_of([run for run in healthy if name in run.signals], name) for name in TOLD
    }
    heads = (f"{NAMES[name]} > {limit:.3g}" for name, limit in limits.items())
    table: list[Sequence[Any]] = [("run", "edits", *HEADS.values(), *heads, "lowest denominator")]
    for name, run in courses(runs).items():
        alarms = (alarm(run, told, limit) for told, limit in limits.items())
        table.append((name, last(run), *edits_of(run), *alarms, lowest_denominator(run)))
    return f"First alarm (highest value):\n\n{markdown(table)}"


def alarm(run: Course, name: str, limit: float) -> str:
    """The edit of a signal's first alarm, and its highest value."""
    if name not in run.signals:
        return "-"
    at = first(run.signals[name] > limit)
    edit = "never" if at is None else f"{int(run.numbers[at])}"
    return f"{edit} ({run.signals[name].max():.3g})"


def lowest_denominator(run: Course) -> str:
    """The lowest denominator of the measured edits, and its edit."""
    if "denominator" not in run.signals:
        return "-"
    found = run.signals["denominator"]
    return f"{math.exp(-found.max()):.3g} (edit {int(run.numbers[found.argmax()])})"


def picture(
    found: Mapping[str, Mapping[str, Verdict | None]], known: Mapping[str, Course]
) -> Figure:
    """Two runs' signals over edits, relative to their limits; lead and area of each signal."""
    figure = Figure(figsize=(9, 7.5), dpi=130, layout="constrained")
    grid = figure.subplots(2, 2, height_ratios=[1, 1.25])
    chosen = [name for name, run in known.items() if len(run.numbers) > 2]
    struck = [name for name in chosen if known[name].events["perplexity"]]
    others = [n for n in chosen if known[n].events["tasks_10"] and n not in struck]
    for axes, names in zip(grid[0], (struck, others), strict=True):
        if names:
            _course(axes, names[0], known[names[0]], found)
    _forest(grid[1][0], found, "lead", "mean lead in edits (0: no warning)")
    _forest(grid[1][1], found, "auroc", "area under the ROC curve")
    grid[1][1].axvline(0.5, color="0.7", linewidth=0.8)
    grid[1][1].set_xlim(0, 1.02)
    grid[0][0].legend(fontsize="small", frameon=False)
    handles, labels = grid[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _course(
    axes: Axes, title: str, run: Course, found: Mapping[str, Mapping[str, Verdict | None]]
) -> None:
    """Signals of a run over their limits, so that all alarm at 1."""
    for name, style in SHOWN.items():
        one = found["perplexity"].get(name)
        if one is not None and name in run.signals:
            shares = np.maximum(run.signals[name] / one.limit, 0.02)
            axes.plot(run.numbers, shares, style, color="black", label=NAMES[name])
    axes.axhline(1, color="0.6", linewidth=0.8)
    for event, (color, marker, fill) in LOOKS.items():
        at = run.events[event]
        if at is not None:
            axes.axvline(run.numbers[at], color=color, linewidth=0.8)
            axes.plot(run.numbers[at], 0.025, marker, color=color, fillstyle=fill)
    axes.set(
        yscale="log", xlabel="edit", ylabel="signal / its limit", title=title, ylim=(0.02, None)
    )


def _forest(
    axes: Axes, found: Mapping[str, Mapping[str, Verdict | None]], what: str, label: str
) -> None:
    """A dot with its interval per signal and event."""
    names = [name for name in SIGNALS if any(found[event][name] for event in LOOKS)]
    for shift, (event, (color, marker, fill)) in zip((-0.15, 0.15), LOOKS.items(), strict=True):
        known = [(n, one) for n, name in enumerate(names) if (one := found[event][name])]
        for line, one in known:
            value: Estimate = getattr(one, what)
            if not math.isnan(value.low):
                axes.hlines(line + shift, value.low, value.high, color=color)
        values = [getattr(one, what).value for _, one in known]
        places = [line + shift for line, _ in known]
        style: dict[str, Any] = {"color": color, "fillstyle": fill, "markersize": 5}
        axes.plot(values, places, marker, label=HEADS[event], **style)
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
