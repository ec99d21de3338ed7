"""Edit facts in a language model and watch whether it survives: fit, validate, test, predict."""

import gc
import sys

gc.disable()  # imports leave no garbage, and looking for it takes a fifth of the start

from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

from command_line.cli import EditingCLI, SavedConfig
from command_line.composition import composed
from command_line.configs import DEFAULTS
from command_line.helping import named_help
from command_line.mistakes import Parser, in_a_sentence
from command_line.quiet import quiet
from command_line.short_names import import_all

gc.freeze()  # nor is it looked for among what was imported, in a run or in its workers
gc.enable()

VERBS = ("fit", "validate", "test", "predict")


def main(args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """Runs one command line; every config builds on ``configs/defaults.yaml``."""
    import_all()
    defaults = {"default_config_files": [str(DEFAULTS)]}
    return EditingCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=SavedConfig,
        parser_class=Parser,
        parser_kwargs=dict.fromkeys(VERBS, defaults) if run else defaults,
        args=composed(named_help(sys.argv[1:] if args is None else args)),
        run=run,
    )


if __name__ == "__main__":
    quiet()
    with in_a_sentence():
        main()
