"""A run's edits without some of them: later edits are fitted or made again without those."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.editor import Editor
from ..editing.expert_edits import by_expert
from ..editing.ledger import Entry
from ..editing.refitting import Refitting

Removal = Literal["subtract", "refit", "again"]


def remade(
    owner: Editor, run: Path, entries: Sequence[Entry], kept: Sequence[Entry], how: Removal
) -> dict[int, list[Update]]:
    """Updates of the edits after the first one left out, by the edit's number.

    Args:
        owner: holds the model.
        run: the folder of the run.
        entries: all edits of its ledger.
        kept: those to make.
        how: ``refit`` solves for the values that the run found, on the model without the edits left
            out; ``again`` searches new ones.

    Raises:
        ValueError: if the run does not tell its method, or that cannot make the edits so.
    """
    require_sequence(run, entries)
    with torch.inference_mode(False), torch.enable_grad(), owner.edited.unedited():
        method = method_of(run, owner)
        if how == "refit" and not can_refit(method):
            raise ValueError(
                f"{type(method).__name__} of {run} cannot be fitted again to values once found, as "
                "its updates do not hold them; use --model.removal again, which searches new ones"
            )
        method.prepare()
        return without(method, entries, kept, how)


def without(
    method: Editor, entries: Sequence[Entry], kept: Sequence[Entry], how: Removal
) -> dict[int, list[Update]]:
    """The same, by the run's method on the unedited model, which then holds the kept edits."""
    after = next(entry for entry in entries if entry not in kept).edit
    found = values_found(method, entries, after) if how == "refit" else {}
    method.restore()
    made = {}
    for entry in kept:
        if entry.edit < after:
            repeat(method, entry)
        else:
            made[entry.edit] = list(make(method, entry, found.get(entry.edit)))
    return made


def require_sequence(run: Path, entries: Sequence[Entry]) -> None:
    """Refuses edits that do not depend on each other, or that several methods made.

    Raises:
        ValueError: if that is what they are.
    """
    if any(entry.before == 0 for entry in entries[1:]):
        raise ValueError(
            f"the edits of {run} were each made on the unedited model, so none depends on another; "
            "--model.removal subtract is exact"
        )
    journal = run / "edits.jsonl"
    lines = journal.read_text("utf-8").splitlines() if journal.is_file() else []
    numbers = {entry.edit for entry in entries}
    edits = [edit for edit in map(json.loads, lines) if edit["edit"] in numbers]
    methods = sorted({edit["method"] for edit in edits if "method" in edit})
    if len(methods) > 1:
        raise ValueError(
            f"the edits of {run} were made by {' and '.join(methods)}, and later ones can be made "
            "again for a single method only; use --model.removal subtract"
        )


def method_of(run: Path, owner: Editor) -> Editor:
    """The run's method on the owner's model.

    Raises:
        ValueError: if the run's config does not name it, or it is a replay.
    """
    method = configured(run)
    if isinstance(method, type(owner)):
        raise ValueError(f"{run} is a replay itself; give the run whose edits it repeats")
    method.borrow(owner)
    method.begin()
    return method


def configured(run: Path) -> Editor:
    """The run's method, as its ``config.yaml`` says, without a model.

    Raises:
        ValueError: if there is no such file, or it names no method.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise ValueError(
            f"{run} has no config.yaml that names its method; use --model.removal subtract"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Editor, "model")
    try:
        config = parser.parse_object({"model": yaml.safe_load(file.read_text("utf-8"))["model"]})
    except (ArgumentError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} names no method ({error}); give the run's own file") from error
    method: Editor = parser.instantiate_classes(config).model
    return method


def can_refit(method: Editor) -> bool:
    """Whether the method solves for given values, and its updates hold them untransformed."""
    return isinstance(method, Refitting) and method.transform is None


def values_found(method: Editor, entries: Sequence[Entry], after: int) -> dict[int, Tensor]:
    """The values ``(d, n)`` that the run found in each edit after one, by the edit's number."""
    assert isinstance(method, Refitting)
    found = {}
    for entry in entries:
        updates = list(on_device(method, entry))
        if entry.edit > after:
            found[entry.edit] = method.values_of(asked(method, entry), updates)
        for update in updates:
            method.edited.apply(update)
    return found


def repeat(method: Editor, entry: Entry) -> None:
    """Applies an edit as the ledger holds it; the method's history takes it in."""
    updates = list(on_device(method, entry))
    if can_refit(method):
        assert isinstance(method, Refitting)
        requests = asked(method, entry)
        values = method.values_of(requests, updates)
        parts = by_expert(method.lm, method.edit_to(requests, values))
        for _, update in zip(parts, updates, strict=True):
            method.edited.apply(update)
    elif method.history or not method.edited_requests:  # the first one shows if there is a history
        method.make_edit(entry.requests())
    else:
        for update in updates:
            method.edited.apply(update)


def make(method: Editor, entry: Entry, values: Tensor | None) -> Iterator[Update]:
    """Makes an edit on the present model, for given values or for new ones.

    Yields:
        Its updates; none, with a warning, if it fails.
    """
    if values is None:
        method.make_edit(entry.requests())
        if method.record["status"] != "applied":
            rank_zero_warn(
                f"edit {entry.edit} fails without the edits left out "
                f"({method.record['reason']}): it is left out too"
            )
        yield from method.applied
    else:
        assert isinstance(method, Refitting)
        for update in by_expert(method.lm, method.edit_to(asked(method, entry), values)):
            method.edited.apply(update)
            yield update


def asked(method: Editor, entry: Entry) -> list[EditRequest]:
    """An edit's requests as the method edits them."""
    return [method.as_edited(request) for request in entry.requests()]


def on_device(method: Editor, entry: Entry) -> Iterator[Update]:
    """An edit's updates in the ledger, on the model's device."""
    for name, left, right in entry.updates():
        yield Update(
            name, left.to(method.device), None if right is None else right.to(method.device)
        )
