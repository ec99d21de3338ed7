"""One-sentence errors for mistakes on the command line, with the nearest correct word."""

import importlib.util
import inspect
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import pytorch as lightning
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError
from torch.distributed import DistError

from lightning_modules.editing.replicas import DriftError

from . import configs, short_names
from .helping import ESSENTIALS

KINDS = {"model": "method", "data": "data module", "callbacks": "callback", "logger": "logger"}

FAULTS = (  # reported in a sentence: a user's mistake, a damaged file, an exhausted machine
    *(DriftError, MisconfigurationException, SafetensorError),
    *(DistError, torch.OutOfMemoryError, pickle.UnpicklingError, zipfile.BadZipFile),
    *(EOFError, ImportError, MemoryError, OSError, ValueError),
)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
ROOMS = ("callbacks", "data_modules", "lightning_modules")
UNKNOWN = (
    r"unrecognized arguments: -*(?P<word>[\w.+-]+)",
    r"does not accept option '(?P<word>[\w.]+)'",
    r"invalid choice: '(?P<word>[\w-]+)' \(choose from (?P<known>.*)\)",
    r"class_path '(?P<path>[\w.]+)':\s+Option '(?P<word>[\w.]+)' is not accepted",
    r"class_path '(?P<path>[\w.]+)':\s+module '[\w.]+' has no attribute '(?P<word>\w+)'",
    r"File does not exist: '(?P<file>.*)'",
    r'Parser key "(?P<key>[\w.]+)":(?:(?!Parser key).)*?'
    r"Expected a dot import path string: (?P<name>\w+)\n",
)
REFUSED = (
    r'Parser key "(?P<key>[\w.]+)":(?P<why>(?:(?!Parser key).)*?)'
    r"(?:Given|Got) value: (?P<value>[^\n]*)"
)


class Parser(LightningArgumentParser):
    """Lightning's parser with one-sentence errors; KEEL_TRACE=1 shows them in full."""

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Refuses arguments that the parser would report badly."""
        for argument in args or ():
            value = str(argument).rpartition("=")[2]
            if re.fullmatch(r"\{\d+:\d.*\}", value):
                spaced = re.sub(r":(?=\S)", ": ", value)
                self.error(f"{value} is no mapping in YAML, as a space is missing: give '{spaced}'")
            if value.endswith((".yaml", ".yml")) and Path(value).is_file() and not is_text(value):
                self.error(f"the config {value} is not UTF-8 text")
        return super().parse_args(args, *rest, **options)

    def format_help(self) -> str:
        """Begins with what most runs need."""
        text = str(super().format_help())
        return ESSENTIALS + text if "--data.help" in text else text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the program with the sentence."""
        asked = getattr(ex, "subcommand_parser", None) or self
        options = re.findall(r"--([\w.]+)", asked.format_usage())
        sentence = None if os.environ.get("KEEL_TRACE") else explained(message, options)
        if os.environ.get("KEEL_TRACE") or (sentence is None and not self.exit_on_error):
            super().error(message, ex)  # to the outer parser, which knows the class
        sentence = sentence or gist(message)
        self.exit(2, f"error: {sentence}\n(KEEL_TRACE=1 shows more)\n")


def is_text(file: str) -> bool:
    """Whether a file holds UTF-8 text."""
    try:
        Path(file).read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """Ends the program with one sentence at a fault; KEEL_TRACE=1 shows where it arose."""
    try:
        yield
    except FAULTS as error:
        if os.environ.get("KEEL_TRACE"):
            raise
        sys.exit(f"error: {said_of(error)}\n(KEEL_TRACE=1 shows where)")


def said_of(error: BaseException) -> str:
    """An error's message in one line; its type if it has none."""
    if isinstance(error, pickle.UnpicklingError):
        return "the checkpoint is not read, as it could run code; give one that a run has written"
    if "EADDRINUSE" in str(error):
        port = re.search(r"port: (\d+)", str(error))
        return f"the port {port[1] if port else ''} is in use; set MASTER_PORT to a free one"
    return gist(str(error)) or type(error).__name__


def gist(message: str) -> str:
    """A message in one line, without jsonargparse's list of all types it tried."""
    if "Does not validate against" in message:
        errors = re.findall(r"^ +- (.+(?<=:)\n.+|.+)", message, re.M)
        key = re.match(r'Parser key "[\w.]+":', message)
        told = errors[0].replace("Problem with given class_path ", "") if errors else message
        message = f"{key[0]} {told}" if key else told
    return " ".join(re.sub(r'^Parser key "([\w.]+)":', r"\1:", message).split())


def explained(message: str, options: Iterable[str]) -> str | None:
    """The parser's message in one sentence; None if it is of an unknown kind.

    Args:
        message: jsonargparse's.
        options: known ones, without those of classes.
    """
    found = next(filter(None, (re.search(p, message, re.S) for p in UNKNOWN)), None)
    if found is None:
        return refused(message)
    parts = found.groupdict()
    if "key" in parts:
        return unknown_class(parts["key"], parts["name"])
    if "file" in parts:
        name = Path(parts["file"]).name
        return f"there is no config {name!r}" + nearest(name, configs.names())
    word = parts["word"]
    if "known" in parts:
        return f"there is no command {word!r}" + nearest(
            word, re.findall(r"[\w-]+", parts["known"])
        )
    if "path" not in parts:
        return f"there is no option {word!r}" + nearest(word, options)
    module, _, name = parts["path"].rpartition(".")
    if find_spec(module) is None:
        known = classes_named(name)
        hint = f"; {name} is {known[0]}" if known else ""
        return f"there is no {parts['path']!r}: is the config of an older version?{hint}"
    if word == name:
        return f"{module} has no class {word!r}" + nearest(word, dir(import_module(module)))
    return f"{name} has no option {word!r}" + nearest(
        word, constructor(getattr(import_module(module), name))
    )


def unknown_class(key: str, name: str) -> str:
    """The error for an unknown method, data module, callback or other class, with the nearest."""
    part = key.rpartition(".")[2]
    kind = KINDS.get(part, "class")
    theirs = {"callbacks": lightning.callbacks.__all__, "logger": lightning.loggers.__all__}
    known = [*short_names.of_kind(part), *theirs.get(part, [])]
    return f"there is no {kind} {name!r}" + nearest(name, known)


def refused(message: str) -> str | None:
    """The error for a value of the wrong type."""
    found = re.findall(REFUSED, message, re.S)
    if not found:
        return None
    key, why, value = found[-1]
    if choices := re.findall(r"Literal\[(.*?)\]", why):
        known = dict.fromkeys(", ".join(choices).split(", "))  # several unions repeat them
        return f"{key} must be one of {', '.join(known)}, got {value}"
    kinds = re.findall(r"Expected an? <class '(\w+)'>", why)
    expected = " or ".join("null" if kind == "NoneType" else kind for kind in dict.fromkeys(kinds))
    return f"{key} must be {expected}, got {value}" if expected not in ("", "null") else None


def nearest(word: str, known: Iterable[str]) -> str:
    """``; do you mean ...?`` with the most similar known word; empty if there is none."""
    likely = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; do you mean {likely[0]!r}?" if likely else ""


def classes_named(name: str) -> list[str]:
    """Paths of our own classes with this name."""
    root = Path(configs.__file__).parents[1]
    files = [file for room in ROOMS for file in sorted((root / room).rglob("*.py"))]
    return [
        ".".join((*file.relative_to(root).with_suffix("").parts, name))
        for file in files
        if re.search(rf"^class {name}\b", file.read_text("utf-8"), re.M)
    ]


def find_spec(module: str) -> ModuleSpec | None:
    """A module's spec; None if it, or one of its packages, is missing."""
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


def constructor(kind: type) -> list[str]:
    """Arguments of a class and of those it inherits from."""
    signatures = (inspect.signature(parent).parameters for parent in kind.__mro__[:-1])
    named = (name for found in signatures for name, p in found.items() if p.kind not in VARIADIC)
    return [name for name in named if name not in ("self", "options")]
