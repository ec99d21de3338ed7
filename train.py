"""Edit facts in a language model and watch whether it survives: fit, validate, test, predict."""

import os
import sys
import warnings
from pathlib import Path

from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.collapse import CollapseStopping

CONFIGS = Path(__file__).parent / "configs"
VERBS = ("fit", "validate", "test", "predict")


class EditingCLI(LightningCLI):
    """Lightning's command line, with the collapse threshold where a user can reach it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--collapse.threshold`` and ``--collapse.relative``."""
        parser.add_lightning_class_args(CollapseStopping, "collapse")


def located(argument: str) -> str:
    """A config's path: as given, or else of that name in ``configs/``."""
    option, equals, name = argument.rpartition("=")
    known = name.endswith((".yaml", ".yml")) and not Path(name).exists()
    return f"{option}{equals}{CONFIGS / name}" if known and (CONFIGS / name).exists() else argument


def main(args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """Runs one command line; ``configs/defaults.yaml`` lies below every config."""
    defaults = {"default_config_files": [str(CONFIGS / "defaults.yaml")]}
    return EditingCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_kwargs=dict.fromkeys(VERBS, defaults) if run else defaults,
        args=[located(argument) for argument in (sys.argv[1:] if args is None else args)],
        run=run,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "Found .* module\\(s\\) in eval mode")  # as it must be
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # located() needs it
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6.6 on torch 2.13
    try:
        main()
    except (FileNotFoundError, MisconfigurationException, ValueError) as error:
        if os.environ.get("KEEL_TRACE"):
            raise
        sys.exit(f"error: {error}\n(KEEL_TRACE=1 shows where)")
