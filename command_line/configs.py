"""The configs' folder, and how names on the command line are resolved."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULTS = CONFIGS / "defaults.yaml"  # every config builds on it


def located(argument: str) -> str:
    """A config's path: as given, else by name in ``configs/``."""
    option, equals, name = argument.rpartition("=")
    known = name.endswith((".yaml", ".yml")) and not Path(name).exists()
    return f"{option}{equals}{CONFIGS / name}" if known and (CONFIGS / name).exists() else argument


def names() -> list[str]:
    """Names of all configs."""
    return [str(file.relative_to(CONFIGS)) for file in CONFIGS.rglob("*.yaml")]
