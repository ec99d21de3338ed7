"""Where configs lie, and how their names on the command line are found."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULTS = CONFIGS / "defaults.yaml"  # lies below every config


def located(argument: str) -> str:
    """A config's path: as given, or else of that name in ``configs/``.

    Raises:
        ValueError: if the file is no text.
    """
    option, equals, name = argument.rpartition("=")
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        try:
            Path(name).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"the config {name} is no text in UTF-8 ({error.reason})") from error
    known = name.endswith((".yaml", ".yml")) and not Path(name).exists()
    return f"{option}{equals}{CONFIGS / name}" if known and (CONFIGS / name).exists() else argument


def names() -> list[str]:
    """Names of all configs."""
    return [str(file.relative_to(CONFIGS)) for file in CONFIGS.rglob("*.yaml")]
