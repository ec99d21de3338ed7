import logging
import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_info

from command_line.quiet import Quiet, quiet


def said(message, logger="lightning.pytorch.utilities.rank_zero"):
    return Quiet().filter(logging.LogRecord(logger, 20, "", 0, message, None, None))


@pytest.mark.parametrize(
    "message",
    [
        "TPU available: False, using: 0 TPU cores",
        "💡 Tip: For seamless cloud logging, try installing [litlogger](https://x) to enable it.",
        "`Trainer(val_check_interval=1)` was configured so validation will run after every batch.",
        "`Trainer.fit` stopped: `max_epochs=1` reached.",
        "`Trainer.fit` stopped: `max_steps=4` reached.",
        "Restoring states from the checkpoint path at runs/rome/version_0/checkpoints/last.ckpt",
    ],
)
def test_what_is_untrue_or_of_no_use_is_not_said(message):
    assert not said(message)


@pytest.mark.parametrize("message", ["GPU available: True, used: True", "Journal: runs/rome"])
def test_everything_else_is_said(message):
    assert said(message)


def test_filters_are_installed_once(capsys):
    heard = []
    handler = logging.StreamHandler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            quiet()
            quiet()
            warnings.warn("Found 9 module(s) in eval mode at the start", stacklevel=1)
            with pytest.raises(UserWarning, match="useful"):
                warnings.warn("useful", stacklevel=1)
        rank_zero_info("`Trainer.fit` stopped: `max_epochs=1` reached.")
        rank_zero_info("collapsed at edit 4")
        assert sum(isinstance(known, Quiet) for known in handler.filters) == 1
    finally:
        logger.removeHandler(handler)
    assert heard == ["collapsed at edit 4"]
