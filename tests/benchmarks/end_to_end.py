"""What Lightning, the logger and the journal add to edits and watching themselves."""

import contextlib
import io
import tempfile
import time

from data_modules.edit_requests import EditingDataModule
from lightning_modules.methods.rome import ConsistentROME
from train import main

EDITS = 20


def through_train(edits: int, folder: str) -> float:
    """Seconds of a sequential run by the command line, loading included."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        place = f"--trainer.logger.init_args.save_dir={folder}"
        main(["fit", "--config", "c_rome.yaml", f"--data.limit={edits}", place])
    return time.perf_counter() - started


def by_hand(edits: int) -> float:
    """Seconds of the same judging, editing and watching in a bare loop."""
    data = EditingDataModule(limit=edits, watch_limit=50)  # as c_rome.yaml
    data.setup("fit")
    editor = ConsistentROME()
    editor.configure_model()
    editor.prepare()
    texts = list(data.val_dataloader())
    for batch in texts:
        editor.watch(batch)
    started = time.perf_counter()
    for request in data.requests:
        editor.judge(request)
        editor.make_edit([request])
        editor.judge(request)
        for batch in texts:
            editor.watch(batch)
    return time.perf_counter() - started


def rows(edits: int = EDITS) -> list[dict]:
    """Per edit; the difference of two runs leaves the loading out."""
    with tempfile.TemporaryDirectory() as folder:
        through_train(1, folder)
        whole, start = through_train(edits + 1, folder), through_train(1, folder)
    ours, bare = (whole - start) / edits, by_hand(edits) / edits
    row = {"ours_seconds": ours, "oracle_seconds": bare, "ratio": bare / ours}
    return [
        {"name": "sequential edit, end to end", "shape": "embedded, against a bare loop", **row}
        | {"overhead": ours / bare - 1, "edits_per_second": 1 / ours}
    ]
