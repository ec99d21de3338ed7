"""Measures how closely each method equals its published code; ``python -m docs.fidelity FOLDER``.

The folder holds what the published code computed on a small model (``golden/`` and ``models/``). It
is not part of the project; without it the page keeps the figures that it has.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from command_line.mistakes import in_a_sentence
from data_modules.forms.readers import read_requests
from docs.methods import around
from lightning_modules.editing.editor import Editor
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.localized_fine_tuning import LocalizedFineTuning
from lightning_modules.methods.ultra_edit import UltraEdit
from tests.published import METHODS, Largest, Published, PublishedMEND
from tests.published_loops import Followed, memit_sequence, rome_sequence

PAGE = Path(__file__).with_suffix(".md")
MARKS = "<!-- fidelity -->\n", "<!-- /fidelity -->\n"
SEQUENCES = "<!-- sequences -->\n", "<!-- /sequences -->\n"
SCENARIOS = {"one": "one edit", "eight": "batch of 8", "seq": "sequence of 3 batches"}
NAMES = {
    "memit": "MEMIT",
    "memitseq": "MEMIT with history",
    "alphaedit": "AlphaEdit",
    "encore1": "ENCORE, patience 1",
    "encore4": "ENCORE, patience 4",
    "nas": "NAS on AlphaEdit",
    "emmet": "EMMET",
}


def rows(published: Published) -> Iterator[list[str]]:
    """Per method, the largest relative difference of values, keys, losses and each scenario."""
    for method, name in NAMES.items():
        found = {scenario: published.differences(method, scenario) for scenario in SCENARIOS}
        largest = [
            max((one[quantity] for one in found.values() if quantity in one), default=None)
            for quantity in ("values", "keys", "losses")
        ]
        changes = [found[scenario].get("changes") for scenario in SCENARIOS]
        yield [name, *map(cell, [*largest, *changes])]
    for name, make, prefix in gradient_methods(published):
        changes = [of_sketches(published, make(), prefix, scenario) for scenario in SCENARIOS]
        yield [name, "-", "-", "-", *map(cell, changes)]


def gradient_methods(published: Published) -> Iterator[tuple]:
    """Name, editor and prefix of the figures of each method that takes gradients."""
    for kind, parameters in (("weight_only", "weight"), ("as_published", "weight_and_bias")):
        for radius in (5e-4, None):
            ball = "in the ball" if radius else "free"
            yield (
                f"FT, {parameters.replace('_', ' ')}, {ball}",
                lambda r=radius, p=parameters: FineTuning(
                    [1], radius=r, parameters=p, lm=published.lm
                ),
                f"ft.{kind}.{radius or False}",
            )
    for token in ("ans", "all"):
        yield (
            f"UltraEdit, `token: {token}`, `as_published`",
            lambda t=token: UltraEdit([3, 4], 1e-6, t, None, True, lm=published.lm),
            f"ultra.{token}",
        )
    yield "MEND's transform", lambda: PublishedMEND(published), "mend"


def of_sketches(published: Published, editor: Editor, prefix: str, scenario: str) -> float | None:
    """Largest relative difference of the changes of a scenario; None if it has no figures."""
    editor.configure_model()
    probe, found = published.tensors["probe.1024"].double(), Largest()
    for number, batch in enumerate(published.batches(scenario, published.small["cases"])):
        editor.make_edit(batch)
        for update in editor.applied:
            layer = update.weight.split(".")[2]
            places = ("", f".{number}", f".{number}.{layer}")
            stored = (f"{prefix}.{scenario}{at}.sketch" for at in places)
            theirs = next((published.tensors[n] for n in stored if n in published.tensors), None)
            if update.dense().shape[1] == len(probe):
                found.note("changes", update.dense().double() @ probe, theirs)
    return found.get("changes")


def localized(published: Published) -> list[str]:
    """LocFT-BF after four epochs over six requests, one by one."""
    editor = LocalizedFineTuning([3], lm=published.lm)
    editor.configure_model()
    (requests,) = published.batches("six", published.small["cases"])
    for _ in range(4):
        for request in requests:
            editor.make_edit([request])
    (name,) = editor.original
    change = (editor.edited.master(name) - editor.original[name]).T.double()
    found = Largest()
    theirs = published.tensors["locft.six.sketch"]
    found.note("changes", change @ published.tensors["probe.1024"].double(), theirs)
    return ["LocFT-BF, 24 steps", "-", "-", "-", "-", "-", cell(found["changes"])]


def write_sequences(published: Published, folder: Path) -> None:
    """Writes the table of edits in sequence between its own marks."""
    requests = read_requests(str(folder / "counterfact/counterfact_original_350.json"))
    found = {
        "C-ROME, 20 edits": rome_sequence(published, 20),
        "MEMIT, 10 batches of 10": memit_sequence(published, requests[:100], 10),
    }
    head = ["sequence", "first edit", "last edit", "largest", "sum of all changes"]
    lines = [head, ["---"] * len(head), *(sequence_row(*pair) for pair in found.items())]
    before, behind = around(PAGE, *SEQUENCES)
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    PAGE.write_text(before + table + behind, encoding="utf-8")


def sequence_row(name: str, found: Followed) -> list[str]:
    """A sequence's differences from the published loop."""
    figures = (found.changes[0], found.changes[-1], max(found.changes), found.final)
    return [name, *map(cell, figures)]


def cell(value: float | None) -> str:
    """A difference with one digit; a dash where nothing was published."""
    return "-" if value is None else f"{value:.0e}".replace("e-0", "e-")


def main(args: Sequence[str] | None = None) -> None:
    """Writes the table between the page's marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds golden/ and models/")
    published = Published(parser.parse_args(args).folder)
    torch.set_num_threads(1)
    head = ["method", "values", "keys", "losses", *SCENARIOS.values()]
    lines = [head, ["---"] * len(head), *rows(published), localized(published)]
    before, behind = around(PAGE, *MARKS)
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    PAGE.write_text(before + table + behind, encoding="utf-8")
    write_sequences(published, parser.parse_args(args).folder)


if __name__ == "__main__":
    assert set(NAMES) == set(METHODS)
    with in_a_sentence():
        main()
