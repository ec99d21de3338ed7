"""The product code's modules and what each of them imports, read from the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("callbacks", "lightning_modules", "data_modules")


def module_name(path: Path) -> str:
    """A file's dotted name, from the repository's root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = [
    ROOT / "train.py",
    ROOT / "keel.py",
    *(f for p in ("command_line", *PACKAGES) for f in sorted((ROOT / p).rglob("*.py"))),
]
MODULES = {module_name(path): path for path in FILES}
ROOMS = {module.rpartition(".")[0] for module in MODULES} | {*PACKAGES}


def imported(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Absolute names of what a module imports, wherever in it the import stands."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}" if base else alias.name
                # `from package import module` names a module, `from module import f` does not
                yield name if name in MODULES or base in ROOMS else base


def imports_of(module: str) -> set[str]:
    """Absolute names of what one of our modules imports."""
    path = MODULES[module]
    return set(imported(path.read_text("utf-8"), module, path.name == "__init__.py"))
