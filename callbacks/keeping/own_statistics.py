"""Key statistics from the data's own text, for a run whose model has none."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.second_moments import (
    KIND,
    load_second_moment,
    require_tokens,
    save_second_moments,
)
from lightning_modules.functional.second_moment import SecondMoment, pack
from lightning_modules.language_model.keys import key_widths, token_keys
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.loading import artefact_file
from lightning_modules.language_model.rope import rope_boundary
from lightning_modules.language_model.scoring import batches_by_length
from lightning_modules.language_model.tokens import special_before


class OwnStatistics(L.Callback):
    """Estimates the second moments of keys before the first edit, if the model has none.

    The text is the data's ``plain_text``. It goes to a file of its own, ``cache/own_statistics``,
    so that no other run takes it for statistics of ordinary text.

    Args:
        window: longest piece of a text, in tokens.
        batch_tokens: most tokens of one forward pass.
    """

    def __init__(self, window: int = 128, batch_tokens: int = 2048) -> None:
        self.window = window
        self.batch_tokens = batch_tokens

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Estimates what is missing, and gives the method the file."""
        if not pl_module.keeps_moments or getattr(pl_module, "statistics", None) is not None:
            return
        if stored(None, pl_module):
            return
        where = pl_module.lm_name, pl_module.fingerprint
        file = artefact_file("own_statistics", None, *where)
        if trainer.is_global_zero and not stored(str(file), pl_module):
            with pl_module.edited.unedited():
                self.estimate(trainer, pl_module, file)
        trainer.strategy.barrier()
        pl_module.statistics = str(file)
        rank_zero_info(
            f"Key statistics: from the project's own text ({file}), as {where[0]!r} has none. "
            "From more and ordinary text: python train.py test --config key-statistics.yaml "
            f"--model.lm {where[0]} --model.layers {str(pl_module.layers).replace(' ', '')} "
            "--data.path YOUR_TEXT --data.config null"
        )

    on_predict_start = on_fit_start

    def estimate(self, trainer: L.Trainer, editor: Any, file: Path) -> None:
        """Sums the keys of all texts and writes the means.

        Raises:
            ValueError: if the texts have fewer tokens than a key is wide.
        """
        started = time.perf_counter()
        maps = {layer: output_map(editor.lm, layer) for layer in editor.layers}
        data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        rows = list(self.windows(editor, data.plain_text()))
        tokens = sum(map(len, rows))
        bar = Tqdm(
            total=tokens,
            desc="Key statistics of the unedited model",
            unit=" tokens",
            disable=trainer.progress_bar_callback is None,
        )
        widths = key_widths(editor.lm, editor.layers)
        require_tokens(tokens, max(widths.values()), f"the text for {editor.lm_name!r}")
        sums = {at: SecondMoment(width, editor.device) for at, width in widths.items()}
        lengths = list(map(len, rows))
        for numbers in batches_by_length(lengths, self.batch_tokens, rope_boundary(editor.lm)):
            batch = [rows[number] for number in numbers]
            for place, keys in token_keys(editor.lm, maps, batch).items():
                sums[place].add(keys)
            bar.update(sum(map(len, batch)))
        bar.close()
        moments = {at: pack(running.total() / tokens).cpu() for at, running in sums.items()}
        about = {"tokens": tokens, "window": self.window, "dtype": editor.dtype_name}
        file.parent.mkdir(parents=True, exist_ok=True)
        facts = dict.fromkeys(moments, about)
        save_second_moments(file, editor.lm_name, editor.fingerprint, moments, facts)
        rank_zero_info(f"{tokens} tokens counted in {time.perf_counter() - started:.0f} seconds")

    def windows(self, editor: Editor, texts: Iterator[str]) -> Iterator[list[int]]:
        """Tokens of each piece of each text, which begins as the model's texts do."""
        beginning = special_before(editor.tokenizer)
        step = self.window - len(beginning)
        for ids in editor.tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
            yield from (beginning + ids[at : at + step] for at in range(0, len(ids), step))


def stored(path: str | None, editor: Any) -> bool:
    """Whether the statistics of all edited layers are there.

    Args:
        path: their file; null is the place where ``key-statistics.yaml`` puts them.
        editor: that needs them.
    """
    where = editor.lm_name, editor.fingerprint
    if not artefact_file(KIND, path, *where).is_file():
        return False
    try:
        for layer in editor.layers:
            load_second_moment(path, *where, layer)
    except ValueError:
        return False
    return True
