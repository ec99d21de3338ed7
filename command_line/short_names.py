"""Classes that YAML and the command line may name without their module."""

import pkgutil
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import data_modules
import lightning_modules.jobs
import lightning_modules.methods

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {  # folders of an option's classes
    "model": ("lightning_modules/methods", "lightning_modules/jobs"),
    "data": ("data_modules",),
    "callbacks": ("callbacks",),
    "logger": (),
}


def import_all() -> None:
    """Imports every method, job and DataModule to make their names known to jsonargparse."""
    for package in (lightning_modules.methods, lightning_modules.jobs, data_modules):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.ispkg:
                import_module(module.name)


def defined(*folders: str) -> dict[str, str]:
    """The module of each class below folders, read from the sources; nothing is imported."""
    return {
        name: ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for folder in folders
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in re.findall(r"^class (\w+)", file.read_text("utf-8"), re.M)
    }


def import_named(texts: Iterable[str]) -> None:
    """Imports the modules of classes that arguments or configs name without their module."""
    words = {word for text in texts for word in re.findall(r"(?<![\w.])[A-Z]\w+", text)}
    modules = defined("callbacks", "lightning_modules", "data_modules")
    for name in sorted(words & modules.keys()):
        import_module(modules[name])


def full(class_path: str) -> str:
    """The dotted path of a class that may be named without its module; unknown ones unchanged."""
    if "." in class_path:
        return class_path
    module = defined("lightning_modules", "data_modules").get(class_path)
    return f"{module}.{class_path}" if module else class_path


def of_kind(option: str) -> list[str]:
    """Names of the classes for an option such as ``model``; of all classes for others."""
    return sorted(defined(*FOLDERS.get(option, ("lightning_modules", "data_modules", "callbacks"))))
