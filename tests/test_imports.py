"""The import rule and the sizes of the house, read from the syntax trees of the product code."""

import ast
import importlib
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest
from lightning import LightningModule

from docs.imports import MODULES, PACKAGES, ROOT, imported, imports_of

OURS = {*PACKAGES, "train", "keel", "command_line", "docs", "tests"}
RECORDS = "data_modules.records"
ENGINE = (
    *("lightning_modules.editing", "lightning_modules.language_model"),
    *("lightning_modules.functional", RECORDS),
)
BESIDE_METHODS = ("lightning_modules.jobs", *ENGINE)  # a callback names no method
MAY_IMPORT = {  # longest prefix decides
    "train": ("command_line", "lightning_modules.editing"),
    "keel": ("command_line", "data_modules", "lightning_modules.editing"),
    "command_line": ("command_line", *PACKAGES),
    "callbacks": (),
    "lightning_modules": (),
    "callbacks.keeping": ("callbacks.keeping", *BESIDE_METHODS),
    "callbacks.watching": ("callbacks.watching", "callbacks.keeping", *BESIDE_METHODS),
    "callbacks.watching.measures": (),
    "callbacks.studies": ("callbacks", *BESIDE_METHODS),
    "lightning_modules.methods": ("lightning_modules.methods", *ENGINE),
    "lightning_modules.jobs": ("lightning_modules.jobs", *ENGINE),
    "lightning_modules.editing": ENGINE,
    "lightning_modules.language_model": ENGINE[1:],
    "lightning_modules.functional": ("lightning_modules.functional",),
    "data_modules": ("data_modules",),
    "data_modules.forms": (
        "data_modules.forms",
        "data_modules.text",
        "data_modules.embedded",
        RECORDS,
    ),
    "data_modules.text": ("data_modules.text", RECORDS),
    "data_modules.embedded": ("data_modules.embedded", RECORDS),
    "data_modules.records": (),
}
LIBRARIES = {  # beside the standard library; any where not listed
    "callbacks.watching.measures": {"torch", "numpy"},
    "lightning_modules.functional": {"torch"},
}
SLOW = {"datasets", "peft", "bm25s"}  # to import, or greedy; only what uses them does, and there
FUNCTION_LINES, FILE_LINES, YAML_LINES, CLASSES_DEEP = 50, 250, 25, 5


YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))


def under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def longest_prefix(module: str, table: dict) -> str | None:
    return max((p for p in table if under(module, p)), key=len, default=None)


def refusals(module: str, names: Iterator[str]) -> list[str]:
    """What the import rule says against a module's imports."""
    allowed = MAY_IMPORT[longest_prefix(module, MAY_IMPORT)]
    libraries = LIBRARIES.get(longest_prefix(module, LIBRARIES))
    refused = []
    for name in names:
        top = name.split(".")[0]
        if top in OURS:
            if not any(under(name, prefix) for prefix in allowed):
                refused.append(f"{module} must not import {name}")
        elif libraries is not None and top not in libraries | sys.stdlib_module_names:
            refused.append(f"{module} must not import the library {name}")
    return refused


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def is_fault(node: ast.AST) -> bool:
    match node:
        case ast.Global() | ast.ExceptHandler(type=None) | ast.Call(func=ast.Name(id="print")):
            return True
        case ast.Call(func=ast.Attribute(attr="cuda")):
            return True
        case ast.Constant(value=str(text)):
            return text == "cuda" or text.startswith("cuda:")
        case ast.ImportFrom(names=[ast.alias(name="*")]):
            return True
    return False


def faults(source: str) -> list[str]:
    """Lines with print, global, a bare except, a CUDA literal, or a star import."""
    nodes = (node for node in ast.walk(ast.parse(source)) if is_fault(node))
    return [f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}" for node in nodes]


def long_functions(source: str) -> list[str]:
    """Functions longer than the limit, their docstrings included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    sizes = ((node.name, node.end_lineno - node.lineno + 1) for node in nodes)
    return [f"{name}: {size} lines" for name, size in sizes if size > FUNCTION_LINES]


def test_files_of_every_package_are_found():
    for package in PACKAGES:
        assert any(under(module, package) for module in MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_lies_below_it(module):
    assert refusals(module, iter(sorted(imports_of(module)))) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_start_waits_for_a_library_that_few_runs_use(module):
    body = ast.parse(MODULES[module].read_text("utf-8")).body
    at_start = ast.Module([n for n in body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    names = imported(ast.unparse(at_start), module)
    assert {name.split(".")[0] for name in names} & SLOW == set()


def ancestors(kind: type) -> list[str]:
    """Classes of ours that a class is or inherits from."""
    return [base.__name__ for base in kind.__mro__ if base.__module__.split(".")[0] in PACKAGES]


@pytest.mark.parametrize("module", [m for m in MODULES if under(m, "lightning_modules")])
def test_from_lightning_to_any_module_there_are_at_most_five_classes(module):
    kinds = vars(importlib.import_module(module)).values()
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, LightningModule):
            assert len(ancestors(kind)) <= CLASSES_DEEP, ancestors(kind)


def test_no_two_modules_have_one_name():
    names = [m.split(".")[-1] for m, path in MODULES.items() if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_modules_import_one_another_in_a_ring():
    edges = {module: imports_of(module) & MODULES.keys() - {module} for module in MODULES}
    assert cycle(edges) == []


@pytest.mark.parametrize("module", MODULES)
def test_product_code_keeps_to_the_house_rules(module):
    source = MODULES[module].read_text("utf-8")
    assert faults(source) == []
    assert long_functions(source) == []
    assert len(source.splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_states_little(path):
    assert len(path.read_text("utf-8").splitlines()) <= YAML_LINES


@pytest.mark.parametrize(
    ("module", "source", "refused"),
    [
        (
            "callbacks.keeping.journal",
            "from lightning_modules.methods.rome import ROME",
            "lightning_modules.methods.rome",
        ),
        (
            "callbacks.keeping.journal",
            "from lightning_modules.methods import rome",
            "lightning_modules.methods.rome",
        ),
        (
            "callbacks.keeping.journal",
            "import data_modules.edit_requests",
            "data_modules.edit_requests",
        ),
        ("callbacks.watching.measures", "import lightning", "library lightning"),
        (
            "lightning_modules.methods.rome",
            "from callbacks.keeping import journal",
            "callbacks.keeping.journal",
        ),
        (
            "lightning_modules.methods.rome",
            "from data_modules.forms import zsre",
            "data_modules.forms.zsre",
        ),
        ("lightning_modules.functional.ridge", "import numpy as np", "library numpy"),
        (
            "lightning_modules.functional.ridge",
            "from ..editing import editor",
            "lightning_modules.editing.editor",
        ),
        ("data_modules.forms.zsre", "def f():\n    import lightning_modules", "lightning_modules"),
        ("data_modules.forms.zsre", "import train", "train"),
    ],
)
def test_checker_refuses_a_wrong_import(module, source, refused):
    assert [text.endswith(refused) for text in refusals(module, imported(source, module))] == [True]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("command_line.cli", "from callbacks.keeping import journal"),
        ("callbacks.keeping.journal", "from lightning_modules.editing.editor import Editor"),
        ("lightning_modules.methods.rome", "from data_modules.records import EditRequest"),
        ("lightning_modules.functional.ridge", "import math\nfrom torch import Tensor"),
        ("data_modules.forms.zsre", "from .records import EditRequest"),
    ],
)
def test_checker_accepts_a_right_import(module, source):
    assert refusals(module, imported(source, module)) == []


def test_checker_finds_a_ring():
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_checker_finds_each_fault_of_a_bad_source():
    bad = [
        "from math import *",
        "def f():",
        "    global x",
        "    try:",
        "        print(x.to('cuda:0'), 'no cuda here', y.cuda())",
        "    except:",
        "        return 'cuda'",
    ]
    assert sorted(line.split(":")[0] for line in faults("\n".join(bad))) == [
        "line 1", "line 3", "line 5", "line 5", "line 5", "line 6", "line 7",
    ]  # fmt: skip


def test_checker_measures_functions():
    body = "    pass\n"
    assert long_functions("def f():\n" + body * (FUNCTION_LINES - 1)) == []
    assert long_functions("def f():\n" + body * FUNCTION_LINES) == ["f: 51 lines"]
