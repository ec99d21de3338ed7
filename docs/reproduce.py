"""Both papers' experiments: python -m docs.reproduce (make reproduce, make reproduce-smollm2)."""

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import torch

import train
from callbacks.keeping.run_folder import write_json
from command_line.mistakes import in_a_sentence
from docs import (
    counterfact_experiments,
    descent_experiments,
    experiments,
    sink_experiments,
    smollm2_experiments,
    warning_experiments,
)
from docs.courses import quiet
from docs.experiments import Experiment

HERE = Path(__file__).parent


class Book(NamedTuple):
    """A page of experiments with one model.

    Attributes:
        experiments: by name.
        page: where their sections are.
        runs: folder of the runs' folders.
        pictures: folder of the page's pictures.
    """

    experiments: Mapping[str, Experiment]
    page: Path
    runs: Path
    pictures: Path


BOOKS = {
    "embedded": Book(
        experiments.EXPERIMENTS, HERE / "reproduce.md", experiments.RUNS, experiments.PICTURES
    ),
    "smollm2": Book(
        smollm2_experiments.EXPERIMENTS,
        HERE / "smollm2.md",
        smollm2_experiments.RUNS,
        smollm2_experiments.PICTURES,
    ),
    "counterfact": Book(
        counterfact_experiments.EXPERIMENTS,
        HERE / "smollm2.md",
        smollm2_experiments.RUNS,
        smollm2_experiments.PICTURES,
    ),
    "sink": Book(
        sink_experiments.EXPERIMENTS,
        HERE / "sink.md",
        sink_experiments.RUNS,
        sink_experiments.PICTURES,
    ),
    "descent": Book(
        descent_experiments.EXPERIMENTS,
        HERE / "performance.md",
        descent_experiments.RUNS,
        descent_experiments.PICTURES,
    ),
    "warning": Book(
        warning_experiments.EXPERIMENTS,
        HERE / "warning.md",
        warning_experiments.RUNS,
        warning_experiments.PICTURES,
    ),
}


def line(run: Path, command: str) -> str:
    """The command line of a run, after ``python train.py``."""
    return f"{command} --trainer.logger.init_args.name {run.relative_to('runs')}"


def make(run: Path, command: str) -> None:
    """Runs a command in the place of an earlier run of that name; keeps what it measured."""
    quiet()
    shutil.rmtree(run, ignore_errors=True)
    cli = train.main(shlex.split(line(run, command)))
    metrics = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "metrics.json", metrics)


def rounds(commands: Mapping[str, str], made: set[str]) -> Iterator[dict[str, str]]:
    """Commands not made yet, by name, in rounds; each reads only runs of those before it."""
    made = made & set(commands)
    while waiting := {name: text for name, text in commands.items() if name not in made}:
        ready = {n: text for n, text in waiting.items() if reads(text) & set(commands) <= made}
        if not ready:
            raise ValueError(f"the runs {sorted(waiting)} wait for one another")
        yield ready
        made |= set(ready)


def reads(command: str) -> set[str]:
    """Names of the runs whose files a command reads; the file that it writes is its own."""
    return set(re.findall(r"(?<!--model\.output )runs/papers[^/]*/([^/\s]+)/", command))


def work(commands: Mapping[str, str], runs: Path, processes: int) -> None:
    """Runs commands, several at a time, in processes of one thread each."""
    with ProcessPoolExecutor(
        processes, get_context("spawn"), torch.set_num_threads, (1,), max_tasks_per_child=1
    ) as pool:
        futures = {pool.submit(make, runs / name, text): name for name, text in commands.items()}
        try:
            for future in as_completed(futures):
                future.result()
                sys.stdout.write(f"{futures[future]}: done\n")
        finally:
            pool.shutdown(cancel_futures=True)


def section(experiment: Experiment, book: Book) -> str:
    """What the page says of an experiment: commands, if it has its own, tables and pictures."""
    commands = [line(book.runs / name, text) for name, text in experiment.commands.items()]
    lines = [wrapped(f"python train.py {command}") for command in commands]
    made = ["```bash", *lines, "```"] if lines else ["From runs of the other sections."]
    parts = [*made, "", experiment.show()]
    for run, file in experiment.pictures:
        book.pictures.mkdir(exist_ok=True)
        shutil.copyfile(book.runs / run / "version_0" / file, book.pictures / f"{run}-{file}")
        place = f"{book.pictures.name}/{run}-{file}"
        parts += ["", f"![{file.removesuffix('.png')} of {run}]({place})"]
    return "\n".join(parts)


def wrapped(command: str) -> str:
    """A command on lines of bearable length, broken before options."""
    whole = re.sub(r" (?!--)", "\N{NO-BREAK SPACE}", command)
    lines = wrap(whole, 96, break_long_words=False, break_on_hyphens=False)
    return " \\\n  ".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def filled(page: str, sections: Mapping[str, str]) -> str:
    """A page with new text between the marks of each section.

    Raises:
        ValueError: if the page does not mark a section's place.
    """
    for name, text in sections.items():
        begin, end = f"<!-- {name}: make reproduce -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, behind = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page has no place for {name}; write {begin} and {end} into it")
        page = f"{before}{begin}\n\n{text}\n\n{end}{behind}"
    return page


def main(args: Sequence[str] | None = None) -> None:
    """Runs what has not been run yet, and writes the page.

    Raises:
        FileNotFoundError: if there is no such page.
        ValueError: if an experiment is unknown, or the page does not mark a section's place.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", choices=BOOKS, default="embedded", help="which page")
    parser.add_argument("--only", help="experiments, by commas")
    parser.add_argument("--again", action="store_true", help="run also what has been run")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at a time")
    parser.add_argument("--page", type=Path, help="to write; by default the model's")
    options = parser.parse_args(args)
    book = BOOKS[options.book]
    asked = options.only.split(",") if options.only else list(book.experiments)
    unknown = sorted(set(asked) - set(book.experiments))
    if unknown:
        raise ValueError(
            f"experiments {unknown} are unknown; choose from {sorted(book.experiments)}"
        )
    chosen = {name: book.experiments[name] for name in asked}
    page = options.page or book.page
    filled(page.read_text("utf-8"), dict.fromkeys(asked, ""))  # before any run
    commands = {name: text for e in chosen.values() for name, text in e.commands.items()}
    made = {file.parent.name for file in book.runs.glob("*/metrics.json") if not options.again}
    for ready in rounds(commands, made):
        work(ready, book.runs, options.processes)
    sections = {name: section(experiment, book) for name, experiment in chosen.items()}
    page.write_text(filled(page.read_text("utf-8"), sections), "utf-8")


if __name__ == "__main__":
    with in_a_sentence():
        main()
