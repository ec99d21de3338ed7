"""Where configs lie, and how their names on the command line are found."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULTS = CONFIGS / "defaults.yaml"  # lies below every config


def located(argument: str) -> str:
    """A config's path: as given, or else of that name in ``configs/``."""
    option, equals, name = argument.rpartition("=")
    known = name.endswith((".yaml", ".yml")) and not Path(name).exists()
    return f"{option}{equals}{CONFIGS / name}" if known and (CONFIGS / name).exists() else argument


def names() -> list[str]:
    """Names of all configs."""
    return [str(file.relative_to(CONFIGS)) for file in CONFIGS.rglob("*.yaml")]
