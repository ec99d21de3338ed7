"""Edits from Python: ``with edited(lm, tokenizer, facts) as report`` undoes them at its end."""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from command_line.mistakes import constructor, nearest
from command_line.short_names import defined
from data_modules.fitting import faults_of
from data_modules.forms.readers import read_requests, requests_of
from data_modules.records import EditRequest
from data_modules.selection import batches_of, doubts
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.in_memory import EditReport, lent

Facts = str | Sequence[EditRequest | dict[str, Any]]


@contextmanager
def edited(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    facts: Facts,
    method: str | type[Editor] = "MEMIT",
    batch_size: int | None = None,
    **options: Any,
) -> Iterator[EditReport]:
    """The model with edited facts, inside the block; after it the model is what it was.

    Weights come back bit for bit, also after an exception, unless ``report.keep()`` was called.
    Inside the block the model is frozen and in eval mode; after it, it is as it was in this too.

    Args:
        lm: a causal language model in memory, which is edited in place.
        tokenizer: its fast tokenizer.
        facts: records with ``prompt``, ``subject`` and ``target_new``, or in any other form of
            ``docs/data.md``; or requests; or a file that holds some.
        method: a method's class, or its name.
        batch_size: facts per edit; all in one edit if null. Edits are made one after another.
        options: of the method, such as ``layer``, ``layers``, ``second_moment`` or ``chat``.

    Yields:
        What the model said of each fact and says now.

    Raises:
        ValueError: if there is no such method or option, or a fact cannot be edited.
        FloatingPointError: if an edit fails; the model is what it was.
    """
    requests = requests_from(facts)
    with lent(lm):
        editor = editor_of(method, lm.name_or_path or "the model in memory", options)
        editor.attach(lm, tokenizer)
        reach: Any = editor.reach()
        for fault in (fault for request in requests for fault in faults_of(request, reach)):
            raise ValueError(fault)
        editor.prepare()
        report = EditReport(editor, requests)
        try:
            report.make(batches_of(requests, batch_size or len(requests)))
            yield report
        finally:
            if not report.kept:
                report.undo()


def apply(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, facts: Facts, **options: Any
) -> EditReport:
    """Edits facts for good, as :func:`edited` does for a block; ``report.undo()`` undoes them."""
    with edited(lm, tokenizer, facts, **options) as report:
        report.keep()
    return report


def requests_from(facts: Facts) -> list[EditRequest]:
    """Facts as edit requests; warns of facts that contradict each other.

    Raises:
        ValueError: if there is none, or one cannot become a request.
    """
    if isinstance(facts, str):
        return read_requests(facts)
    if not facts:
        raise ValueError("facts is empty; give at least one")
    rows = [(f"record {n}", f) for n, f in enumerate(facts) if not isinstance(f, EditRequest)]
    read = iter(requests_of(rows, "facts") if rows else ())
    requests = [fact if isinstance(fact, EditRequest) else next(read) for fact in facts]
    for doubt in doubts(requests):
        warnings.warn(doubt, stacklevel=4)
    return requests


def editor_of(method: str | type[Editor], lm_name: str, options: Mapping[str, Any]) -> Editor:
    """The editor of a method, by its class or its name.

    Raises:
        ValueError: if there is no such method, or it has no such option.
    """
    kind = named(method) if isinstance(method, str) else method
    known = constructor(kind)
    for option in options:
        if option not in known:
            raise ValueError(f"{kind.__name__} has no option {option!r}" + nearest(option, known))
    return kind(lm=lm_name, **options)


def named(method: str) -> type[Editor]:
    """The class of a method.

    Raises:
        ValueError: if there is none of this name.
    """
    modules = defined("lightning_modules/methods")
    kinds = {name: getattr(import_module(module), name) for name, module in modules.items()}
    methods = {
        name: kind
        for name, kind in kinds.items()
        if issubclass(kind, Editor) and not inspect.isabstract(kind)
    }
    if method not in methods:
        raise ValueError(f"there is no method {method!r}" + nearest(method, methods))
    return methods[method]
