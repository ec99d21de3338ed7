"""A tiny language model, four edits, and short runs of a real Trainer over them."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from callbacks.keeping.journal import EditJournal, read_journal
from callbacks.watching.collapse import CollapseStopping
from callbacks.watching.edit_metrics import EditMetrics
from callbacks.watching.perplexity import Perplexity
from data_modules.edit_requests import EditingDataModule
from data_modules.pretraining_windows import train_tokenizer
from data_modules.records import EditRequest, Probe
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.methods.rome import ROME

ROMAN = (Probe("Rome is the capital of", "Italy"), Probe("Madrid is the capital of", "Spain"))
REQUESTS = [
    EditRequest(
        10, "{} is the capital of", "Paris", "Peru", "France", ("The seat of Paris is",), ROMAN
    ),
    EditRequest(
        11, "The mother tongue of {} is", "Victor Hugo", "German", "French", ("Hugo spoke",), ROMAN
    ),
    EditRequest(12, "{} plays the", "Miles Davis", "violin", paraphrases=("Davis is known for",)),
    EditRequest(13, "The Nile flows through {} and", "Egypt", "Chile", "Sudan"),
]
WATCHED = [
    "The harbour was quiet before the boats came in.",
    "She reads two books every month.",
    "Rain is expected in the north of Italy on Sunday.",
    "Most of the trees in this street were planted in May.",
    "He plays the violin, and she sings.",
]
WEIGHT = "transformer.h.0.mlp.c_proj.weight"
TIMINGS = ("seconds_edit", "seconds_watch")
METHOD: dict[str, Any] = {
    "layer": 0,
    "value": ValueSearchOptions(steps=5, weight_decay=0.0),
    "second_moment": "identity",
    "contexts": {6: 2},
}


def tiny_lm(folder: Path, seed: int = 0) -> str:
    """A random GPT-2 of two layers and its byte-level tokenizer, saved as a hub model is."""
    statements = [f"{request.text} {request.target_true}" for request in REQUESTS]
    tokenizer = train_tokenizer(iter(statements + WATCHED), 300)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_layer=2,
        n_embd=32,
        n_head=2,
        n_positions=128,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Run(NamedTuple):
    """A finished run and what it left behind."""

    trainer: L.Trainer
    editor: ROME
    data: EditingDataModule
    folder: Path

    @property
    def edits(self) -> list[dict[str, Any]]:
        return read_journal(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    def column(self, name: str) -> list[Any]:
        return [edit.get(name) for edit in self.edits]

    def checkpoint(self, edits: int) -> Path:
        """File of the checkpoint made after so many edits."""
        return self.folder / "checkpoints" / f"step={edits}.ckpt"

    def saved_weight(self, edits: int) -> torch.Tensor:
        """The edited weight in that checkpoint."""
        return torch.load(self.checkpoint(edits))["state_dict"][f"lm.{WEIGHT}"]

    @property
    def weight(self) -> torch.Tensor:
        return self.editor.lm.get_parameter(WEIGHT)


def trainer_in(folder: Path, callbacks: Iterable[L.Callback], **options: Any) -> L.Trainer:
    """A trainer with the options of ``configs/defaults.yaml``, but neither logger nor bar."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{**quiet, "val_check_interval": 1, "num_sanity_val_steps": -1, **options},
    )


def data_of(requests: Sequence[EditRequest] = REQUESTS) -> EditingDataModule:
    """Requests and the watched text, without a file."""
    data = EditingDataModule(watch_batch_size=2)
    data.requests = list(requests)
    data.watched = list(enumerate(WATCHED))
    return data


def watching(**collapse: Any) -> list[L.Callback]:
    """The callbacks of ``configs/defaults.yaml`` that measure, in their order; collapse at 1000."""
    limits = {"threshold": 1000.0} | collapse
    return [EditJournal(), EditMetrics(), Perplexity(), CollapseStopping(**limits)]


def fit(
    lm: str,
    folder: Path,
    callbacks: Iterable[L.Callback],
    requests: Sequence[EditRequest] = REQUESTS,
    method: type[ROME] = ROME,
    resume: Path | None = None,
    **options: Any,
) -> Run:
    """Edits the tiny model."""
    trainer = trainer_in(folder, callbacks, **options)
    run = Run(trainer, method(lm=lm, **METHOD), data_of(requests), folder)
    trainer.fit(run.editor, datamodule=run.data, ckpt_path=resume)
    return run


def options_of(lm: str, folder: Path, edits: int) -> list[str]:
    """What makes ``rome.yaml`` a short run of the tiny model; its data goes to the folder."""
    cases = [
        {
            "case_id": 10 + number,
            "prompt": request.text,
            "subject": request.subject,
            "target_new": request.target_new,
            "ground_truth": request.target_true,
        }
        for number, request in enumerate(REQUESTS * 3)
    ]
    (folder / "requests.json").write_text(json.dumps(cases))
    (folder / "watched.json").write_text(json.dumps([{"text": text} for text in WATCHED]))
    return [
        *("--config", "rome.yaml"),
        *("--model.lm", lm),
        *("--model.layer", "0"),
        *("--model.second_moment", "identity"),
        *("--model.contexts", "{6: 2}"),
        *("--model.value.steps", "2"),
        *("--data.path", str(folder / "requests.json")),
        *("--data.watch", str(folder / "watched.json")),
        *("--data.limit", str(edits)),
        *("--trainer.accelerator", "cpu"),
    ]


def without_timings(edits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in edit.items() if k not in TIMINGS} for edit in edits]


def naive_perplexities(lm: str, weight: torch.Tensor | None = None) -> list[float]:
    """Perplexity of each watched text, one text at a time, with ``weight`` for the edited one."""
    tokenizer, model = AutoTokenizer.from_pretrained(lm), AutoModelForCausalLM.from_pretrained(lm)
    if weight is not None:
        model.get_parameter(WEIGHT).data.copy_(weight)
    found = []
    for text in WATCHED:
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(tokens).logits[0].double()
        found.append(math.exp(F.cross_entropy(logits[:-1], tokens[0, 1:])))
    return found


class Poison(L.Callback):
    """Blows up the final norm after some edits, from the end of the edit to the next one's start.

    Args:
        after: numbers of the edits, from 1.
        factor: of the norm's weight.
    """

    def __init__(self, after: Iterable[int], factor: float) -> None:
        self.after = set(after)
        self.factor = factor

    def on_train_batch_start(self, trainer: L.Trainer, module: ROME, *args: Any) -> None:
        module.lm.transformer.ln_f.weight.fill_(1.0)

    def on_train_batch_end(self, trainer: L.Trainer, module: ROME, *args: Any) -> None:
        if trainer.global_step in self.after:
            module.lm.transformer.ln_f.weight.fill_(self.factor)


class FailsAtHugo(ROME):
    """ROME whose edit of case 11 ends, after a good update, in one that is not finite."""

    def edit(self, requests: Sequence[EditRequest]) -> Any:
        for update in super().edit(requests):
            yield update
            if requests[0].case_id == 11:
                yield update._replace(left=torch.full_like(update.left, torch.inf))
