"""Lightning's command line for editing: resuming, several devices, and where a run may write."""

import argparse
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from callbacks.keeping.interruption import Interruption
from callbacks.keeping.resume import LastRun, last_run
from callbacks.watching.collapse import CollapseStopping
from lightning_modules.editing.watched import WatchedModel
from lightning_modules.jobs.encoder_keys import EncoderKeys
from lightning_modules.jobs.key_statistics import KeyStatistics

UNTRAINED = (WatchedModel, KeyStatistics, EncoderKeys)  # whose devices exchange no gradients


class EditingCLI(LightningCLI):
    """Lightning's command line, with the collapse threshold where a user can reach it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--collapse.threshold``, ``--collapse.relative`` and ``--collapse.stop``."""
        parser.add_lightning_class_args(CollapseStopping, "collapse")

    def before_instantiate_classes(self) -> None:
        """Lets ``--ckpt_path last`` resume the newest run, a fit in its own folder."""
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


class SavedConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder, where no other run's may be."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses the folder of another run.

        Raises:
            ValueError: if there is one.
        """
        try:
            super().setup(trainer, pl_module, stage)
        except RuntimeError as error:
            raise ValueError(
                f"{trainer.log_dir} already holds a run; leave --trainer.logger.init_args.version "
                "out, or go on with the last run by --ckpt_path last"
            ) from error
