"""The geometry of requests' keys, and how the keys of collapse requests differ."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.editing.replicas import in_turn
from lightning_modules.language_model.keys import Keyed

from ..keeping.run_folder import folder_of, write_json
from ..watching.figures import publish
from .key_measures import clouds_of, geometry, members
from .key_pictures import FEWEST, VIEWS, chosen, key_figure


class KeyGeometry(L.Callback):
    """Under ``predict``, writes the keys of all requests, figures of them, and distances.

    ``keys.safetensors`` holds every kind of key, ``key_geometry.json`` the measures;
    ``keys_pca.png``, ``keys_tsne.png`` and TensorBoard's projector show the keys of the view.

    Args:
        view: ``subject``: plain keys, mean keys and ``C⁻¹`` mean keys at the subject's last token;
            ``first_token``: plain keys, and the first tokens of normal prompts; ``prefixed``: plain
            keys, and those of collapse prompts after a context.
        hard: JSON file of requests, or of case ids and perplexities, such as ``hard_cases.json``,
            whose cases are the group ``collapse``; if null, those whose subject's last token is the
            prompt's first.
    """

    def __init__(
        self,
        view: Literal["subject", "first_token", "prefixed"] = "subject",
        hard: str | None = None,
    ) -> None:
        self.view = view
        self.hard = hard
        self.cases: set[int] = set()
        self.seen: list[list[Keyed]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Reads which cases are hard.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no cases, or none of this run's.
        """
        self.seen = []
        if self.hard is None:
            return
        self.cases = case_ids(Path(self.hard))
        data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        if not self.cases & {request.case_id for request in data.requests}:
            raise ValueError(
                f"none of the {len(data.requests)} requests is a case of {self.hard}; give the "
                "data it was made from by --data.path, all of them by --data.limit null"
            )

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Stores the keys of a batch, which may be empty if devices share requests."""
        self.seen.append(pl_module.keyed(batch) if batch else [])

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Measures, draws and writes the keys of all requests."""
        keyed = [one for batch in in_turn(self.seen) for one in batch]
        self.seen = []
        if not trainer.is_global_zero:
            return
        folder = folder_of(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        hard = [k.begins if self.hard is None else k.request.case_id in self.cases for k in keyed]
        clouds = clouds_of(keyed, hard)
        save_file(tensors_of(keyed, hard), folder / "keys.safetensors")
        figures = {"view": self.view, "collapse": self.about} | geometry(clouds)
        write_json(folder / "key_geometry.json", {**figures, "lm": pl_module.card()})
        rank_zero_info(f"{len(keyed)} requests, {sum(hard)} of them: {self.about}. Keys: {folder}")
        self.draw(trainer, keyed, hard, clouds)

    @property
    def about(self) -> str:
        """Which requests are ``collapse``, in words."""
        return (
            "subject's last token is the prompt's first"
            if self.hard is None
            else f"cases of {Path(self.hard).name}"
        )

    def draw(
        self,
        trainer: L.Trainer,
        keyed: Sequence[Keyed],
        hard: Sequence[bool],
        clouds: dict[tuple[str, str], Tensor],
    ) -> None:
        """Draws the view for TensorBoard and the folder; reports if it has too few points."""
        panels = chosen(VIEWS[self.view], clouds)
        if min((sum(len(c.points) for c in part) for _, part in panels), default=0) < FEWEST:
            rank_zero_warn(
                f"no picture of the keys: fewer than {FEWEST} of them are in the view "
                f"{self.view!r}; give more requests by --data.limit"
            )
            return
        for method in ("pca", "tsne"):
            publish(trainer, key_figure(panels, method, self.about), f"keys_{method}")
        kinds = [name for name in VIEWS[self.view][0].kinds if name in clouds]
        rows = [
            [group, kind, one.request.case_id, " ".join(one.request.subject.split())]
            for group, kind in kinds
            for one, _ in members(keyed, hard, group, kind)
        ]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_embedding(
                    torch.cat([clouds[name] for name in kinds]),
                    metadata=rows,
                    metadata_header=["group", "kind", "case", "subject"],
                    tag="keys",
                    global_step=0,
                )


def case_ids(file: Path) -> set[int]:
    """Case ids of the records in a JSON list or in JSON lines, or the keys of a JSON object.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything else.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"hard: there is no file {file}; a single-edit sweep with HardCases writes one"
        )
    lines = file.read_text("utf-8").strip().splitlines()
    try:
        if lines[:1] == ["{"]:  # an object that does not begin and end with a line
            return set(map(int, json.loads("".join(lines))))
        text = "".join(lines) if lines[0].startswith("[") else f"[{','.join(lines)}]"
        return {int(record["case_id"]) for record in json.loads(text)}
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"hard: {file} holds no JSON records with a case_id ({type(error).__name__}: {error}); "
            "give requests in CounterFact's form, or an object of case ids and their perplexities"
        ) from error


def tensors_of(keyed: Sequence[Keyed], hard: Sequence[bool]) -> dict[str, Tensor]:
    """Tensors of the keys: each kind ``(n, f)``, case ids, and the members of each group."""
    kinds = keyed[0].keys if keyed else ()
    return {
        **{kind: torch.stack([one.keys[kind] for one in keyed]) for kind in kinds},
        "case_id": torch.tensor([one.request.case_id for one in keyed]),
        "begins": torch.tensor([one.begins for one in keyed]),
        "collapse": torch.tensor(hard),
    }
