"""Silences what Lightning and others write that is untrue here, or that no user can act on."""

import logging
import re
import sys
import warnings

from transformers.utils.logging import disable_progress_bar

MESSAGES = re.compile(
    r"TPU available: False"
    r"|.*try installing \["  # advertisements
    r"|`Trainer\(val_check_interval=1\)` was configured"
    r"|Restoring states from the checkpoint path"  # the next line names it again
    r"|`Trainer.fit` stopped: `max_(epochs|steps)"  # also written of a run that collapsed
)
WARNINGS = (
    "Found .* module\\(s\\) in eval mode",  # as intended
    "LightningCLI's args parameter",  # configs are looked up by name
    "It is recommended to use .*sync_dist",  # every process has the whole value
    "The '.*_dataloader' does not have many workers",  # they hold little
    "The dirpath has changed from",  # a checkpoint may be tested in a folder of its own
    "Using ModelCheckpoint with manual optimization",  # the weights after an edit are wanted
    ".*LeafSpec",  # lightning 2.6.6 on torch 2.13
    ".is_gradient_checkpointing. is deprecated",  # PEFT on transformers 5
    ".torch.jit.script_method. is deprecated",  # torch.compile of torch 2.13
)


class Quiet(logging.Filter):
    """Drops the messages of ``MESSAGES``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is worth reading."""
        return MESSAGES.match(record.getMessage()) is None


def quiet() -> None:
    """Installs the filters, once; in a log file, also no bars while weights are loaded."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(known, Quiet) for known in handler.filters):
                handler.addFilter(Quiet())
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="jsonargparse")
    if not sys.stderr.isatty():
        disable_progress_bar()
