"""Edit facts in a language model and watch whether it survives: fit, validate, test, predict."""

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.collapse import CollapseStopping
from callbacks.interruption import Interruption
from callbacks.resume import LastRun, last_run
from command_line import Parser, SavedConfig, said_of
from lightning_modules.encoder_keys import EncoderKeys
from lightning_modules.key_statistics import KeyStatistics
from lightning_modules.replicas import DriftError
from lightning_modules.watched import WatchedModel

CONFIGS = Path(__file__).parent / "configs"
VERBS = ("fit", "validate", "test", "predict")
UNTRAINED = (WatchedModel, KeyStatistics, EncoderKeys)  # whose devices exchange no gradients


class EditingCLI(LightningCLI):
    """Lightning's command line, with the collapse threshold where a user can reach it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--collapse.threshold``, ``--collapse.relative`` and ``--collapse.stop``."""
        parser.add_lightning_class_args(CollapseStopping, "collapse")

    def before_instantiate_classes(self) -> None:
        """Lets ``--ckpt_path last`` go on with the newest run, a fit in its own folder."""
        self.resumed: LastRun | None = None
        options = self.config.get(str(self.subcommand))
        if options is None or options.ckpt_path != "last":
            return
        logger = getattr(options.trainer.logger, "init_args", argparse.Namespace())
        if not {"save_dir", "name", "version"} <= vars(logger).keys():
            raise ValueError(
                "--ckpt_path last: only a single logger with a folder of its own, such as "
                "TensorBoardLogger, tells which run is the last; name the checkpoint's file"
            )
        self.resumed = last_run(Path(logger.save_dir) / logger.name, self.subcommand == "fit")
        options.ckpt_path = None
        if self.subcommand == "fit":
            logger.version = self.resumed.version
            self.save_config_kwargs = {**self.save_config_kwargs, "overwrite": True}

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """Takes copies of the model for several devices; no bar where none is wanted."""
        trainer = self.config_init.get(str(self.subcommand), self.config_init).trainer
        several = trainer.devices not in (1, "1") or trainer.num_nodes > 1
        if several and trainer.strategy == "auto" and isinstance(self.model, UNTRAINED):
            options |= {"strategy": "replicas", "use_distributed_sampler": False}
        if trainer.enable_progress_bar is False and isinstance(trainer.callbacks, list):
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ProgressBar)]
        return super().instantiate_trainer(**options)

    def after_instantiate_classes(self) -> None:
        """Keeps the place of the resumed run out of the config that is saved."""
        if self.resumed is not None:
            self.config_init[self.subcommand].ckpt_path = self.resumed.checkpoint
            self.config[self.subcommand].trainer.logger.init_args.version = None

    def after_fit(self) -> None:
        """Lets the shell see that the run was told to stop."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined] # Lightning sets it
            if (
                isinstance(callback, Interruption)
                and callback.stopped
                and self.trainer.is_global_zero
            ):
                sys.exit(callback.exit_code)


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
        save_config_callback=SavedConfig,
        parser_class=Parser,
        parser_kwargs=dict.fromkeys(VERBS, defaults) if run else defaults,
        args=[located(argument) for argument in (sys.argv[1:] if args is None else args)],
        run=run,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "Found .* module\\(s\\) in eval mode")  # as it must be
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # located() needs it
    warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist")  # all know it all
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6.6 on torch 2.13
    try:
        main()
    except (DriftError, MemoryError, MisconfigurationException, OSError, ValueError) as error:
        if os.environ.get("KEEL_TRACE"):
            raise
        sys.exit(f"error: {said_of(error)}\n(KEEL_TRACE=1 shows where)")
