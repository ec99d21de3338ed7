"""Lightning's command line for editing: resuming, several devices, and a run's folder."""

import argparse
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.keeping.checkpoint_files import readable
from callbacks.keeping.export_option import Export, Kind
from callbacks.keeping.interruption import Interruption
from callbacks.keeping.resume import LastRun, last_run
from callbacks.keeping.run_folder import TRIAL, folder_of, read_journal, replace_text
from callbacks.keeping.schedule import taken_up_here
from callbacks.watching.collapse import CollapseStopping
from lightning_modules.editing.watched import WatchedModel
from lightning_modules.jobs.encoder_keys import EncoderKeys
from lightning_modules.jobs.key_statistics import KeyStatistics

from .failed_start import watch_start
from .replays import complete

UNTRAINED = (WatchedModel, KeyStatistics, EncoderKeys)  # their devices exchange no gradients


class EditingCLI(LightningCLI):
    """Lightning's command line, with options for the collapse threshold."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--export``, ``--collapse.threshold``, ``--collapse.relative`` and ``.stop``."""
        parser.add_lightning_class_args(CollapseStopping, "collapse")
        parser.add_argument(
            "--export",
            nargs="+",
            type=Kind,
            default=[],
            help="what is written at the end: the edited model (lm), its change, a LoRA adapter",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Expands ``~/``, and passes over a damaged checkpoint before Lightning reads it.

        Raises:
            ValueError: if it is damaged and there is no other.
        """
        super().parse_arguments(parser, args)
        self.config = expanded(self.config)
        options = self.config.get(str(self.config.get("subcommand")))
        if options is not None and options.get("ckpt_path") and Path(options.ckpt_path).is_file():
            options.ckpt_path = str(readable(Path(options.ckpt_path)))

    def before_instantiate_classes(self) -> None:
        """Determines the run's folder, and the run that ``--ckpt_path last`` refers to."""
        self.resumed: LastRun | None = None
        options = self.config.get(str(self.subcommand))
        if options is None:
            return
        complete(options)
        for logger in loggers_of(options.trainer):
            if getattr(logger, "save_dir", None):
                logger.save_dir = os.path.expandvars(Path(logger.save_dir).expanduser())
        if nothing_is_kept(options.trainer):
            folder = tempfile.mkdtemp(prefix=TRIAL)
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            options.trainer.default_root_dir = folder
            rank_zero_info(
                "What this run writes is removed at its end: it is a trial, or has no folder "
                "of its own (--trainer.logger, --trainer.default_root_dir)"
            )
        if options.get("ckpt_path") == "best":
            raise ValueError(
                "--ckpt_path best: editing has no best state, only the last; give 'last', or a "
                "checkpoint's file"
            )
        if options.get("ckpt_path") == "last":
            self.resume_newest(options)

    def resume_newest(self, options: argparse.Namespace) -> None:
        """Resumes from the newest run's checkpoint; a fit continues in that run's folder."""
        loggers = loggers_of(options.trainer)
        if len(loggers) != 1 or not {"save_dir", "name", "version"} <= vars(loggers[0]).keys():
            raise ValueError(
                "--ckpt_path last: only a single logger with a folder of its own, such as "
                "TensorBoardLogger, identifies the last run; name the checkpoint's file"
            )
        (logger,) = loggers
        self.resumed = last_run(Path(logger.save_dir) / logger.name, self.subcommand == "fit")
        options.ckpt_path = None
        if self.subcommand == "fit":
            logger.version = self.resumed.version
            self.save_config_kwargs = {**self.save_config_kwargs, "overwrite": True}

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """Uses model replicas on several devices; no bar if it is disabled.

        Raises:
            ValueError: if this machine has no such devices, or the options do not go together.
        """
        trainer = self.config_init.get(str(self.subcommand), self.config_init).trainer
        several = trainer.devices not in (1, "1") or trainer.num_nodes > 1
        if several and trainer.strategy == "auto" and isinstance(self.model, UNTRAINED):
            options |= {"strategy": "replicas", "use_distributed_sampler": False}
        if trainer.enable_progress_bar is False and isinstance(trainer.callbacks, list):
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ProgressBar)]
        if exported := self._get(self.config_init, "export"):
            trainer.callbacks = [*(trainer.callbacks or []), Export(exported)]
        try:
            return super().instantiate_trainer(**options)
        except (ImportError, MisconfigurationException, TypeError) as error:
            here = (
                f"--trainer.accelerator {trainer.accelerator}, --trainer.devices {trainer.devices}"
            )
            raise ValueError(
                f"{error} ({here}); leave out what this machine does not have"
            ) from error

    def after_instantiate_classes(self) -> None:
        """Keeps the resumed run's folder out of the saved config; a failed start leaves none."""
        if self.subcommand is not None:
            watch_start(self.trainer)
        if self.resumed is not None:
            self.config_init[self.subcommand].ckpt_path = self.resumed.checkpoint
            loggers_of(self.config[self.subcommand].trainer)[0].version = None

    def after_fit(self) -> None:
        """Exits with a signal's code, so that whoever makes several runs stops after this one."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined] # Lightning sets it
            if (
                isinstance(callback, Interruption)
                and (callback.stopped or callback.told)
                and self.trainer.is_global_zero
            ):
                sys.exit(callback.exit_code)


class SavedConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder, unless another run's is there.

    A resumed run's options may be others: the file of before is kept as
    ``config-to-edit-N.yaml``, where N edits were made with it.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses the folder of another run.

        Raises:
            ValueError: if it is one.
        """
        if self.already_saved:
            return
        file = folder_of(trainer) / self.config_filename
        free = self.overwrite or taken_up_here(trainer) or not file.exists()
        if not trainer.strategy.broadcast(free):
            raise ValueError(
                f"{file.parent} already holds a run; leave --trainer.logger.init_args.version "
                "out, or continue the last run with --ckpt_path last"
            )
        if trainer.is_global_zero:
            file.parent.mkdir(parents=True, exist_ok=True)
            before = file.read_text("utf-8") if file.exists() else None
            self.parser.save(self.config, str(file), skip_none=False, overwrite=True)
            if before not in (None, file.read_text("utf-8")):
                edits = len(read_journal(file.parent))
                replace_text(file.with_stem(f"{file.stem}-to-edit-{edits}"), str(before))
        self.already_saved = True


def expanded(value: Any) -> Any:
    """The value with the home folder in place of ``~`` in every text that begins with ``~/``."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value.startswith("~/") else value
    if isinstance(value, argparse.Namespace):
        for name, inner in list(vars(value).items()):
            setattr(value, name, expanded(inner))
        return value
    if isinstance(value, dict):
        return {name: expanded(inner) for name, inner in value.items()}
    return [expanded(inner) for inner in value] if isinstance(value, list) else value


def loggers_of(trainer: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments of each logger configured by class."""
    chosen = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    return [logger.init_args for logger in chosen if hasattr(logger, "init_args")]


def nothing_is_kept(trainer: argparse.Namespace) -> bool:
    """Whether the run has no folder to write to, or is only a trial."""
    return bool(trainer.fast_dev_run) or not (trainer.logger or trainer.default_root_dir)
