"""Models, changes and adapters that outlive the run."""

from copy import deepcopy
from pathlib import Path
from warnings import catch_warnings, filterwarnings

import lightning as L
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_modules.editing.editor import Editor
from lightning_modules.jobs.pretraining import Pretraining
from lightning_modules.language_model.layout import oriented
from lightning_modules.language_model.loading import load
from lightning_modules.language_model.split import weights_of

from .readme import ADAPTER, MODEL, facts, readme
from .run_folder import folder_of, replace_text, whole_folder, write_json
from .total_change import low_rank

CARD = """# A change of a language model

Of `{lm}` (fingerprint {fingerprint}), by {method}: {count} edited requests, cases {cases}.

`change.safetensors` holds the change to add to each weight, as transformers stores it:
`NAME.left` and `NAME.right`, whose product it is, or `NAME.change`. `NAME[e]` is expert e's slice.

```python
from safetensors.torch import load_file

change = load_file("change.safetensors")
for name in {{part.rpartition(".")[0] for part in change}}:
    whole = change.get(f"{{name}}.change")
    added = change[f"{{name}}.left"] @ change[f"{{name}}.right"] if whole is None else whole
    parameter, _, expert = name.removesuffix("]").partition("[")
    whole = lm.get_parameter(parameter).data
    (whole[int(expert)] if expert else whole).add_(added)
```
"""


def checked(lm: PreTrainedModel) -> PreTrainedModel:
    """The same model.

    Raises:
        ValueError: if it holds a weight that is not finite.
    """
    broken = [name for name, weight in weights_of(lm) if not torch.isfinite(weight).all()]
    if broken:
        raise ValueError(
            f"the model is not exported: {', '.join(broken)} hold NaN or infinity; undo the edit "
            "that caused it (configs/replay.yaml)"
        )
    return lm


def unquantized(module: Editor | Pretraining) -> PreTrainedModel:
    """The model to save; of a quantised one the original, loaded again, with the edited weights."""
    if not isinstance(module, Editor) or module.quantized is None:
        return module.lm
    lm, _ = load(module.lm_name, module.dtype_name, module.trust_remote_code)
    for name, weight in module.edited.masters().items():
        lm.get_parameter(name).data.copy_(weight)
    return lm


class SavePretrained(L.Callback):
    """Saves the language model and its tokenizer in Hugging Face's format when training ends.

    Args:
        folder: the target; below the run's folder if relative.
        dtype: of the saved weights; the model's own if null.
    """

    def __init__(self, folder: str = "lm", dtype: str | None = None) -> None:
        self.folder = folder
        self.dtype = dtype

    def setup(self, trainer: L.Trainer, pl_module: Editor | Pretraining, stage: str) -> None:
        """Refuses a model that its files could not reproduce.

        Raises:
            ValueError: if its texts do not begin at position 0, or it is split and wants a dtype.
        """
        if self.dtype is not None and getattr(pl_module, "device_map", None) is not None:
            raise ValueError(
                f"a model split by device_map is exported in its own dtype; leave {self.dtype} out"
            )
        if isinstance(pl_module, Editor) and pl_module.first_position:
            raise ValueError(
                f"a model cannot be exported with first_position {pl_module.first_position}, which "
                "its files cannot store; leave SavePretrained out"
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: Editor | Pretraining) -> None:
        """Writes ``config.json``, ``model.safetensors`` and the tokenizer's files."""
        if trainer.is_global_zero:
            lm = checked(unquantized(pl_module))
            if self.dtype is not None:
                lm = checked(deepcopy(lm).to(getattr(torch, self.dtype)))
            data = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
            owner = pl_module if isinstance(pl_module, Editor) else data
            with whole_folder(folder_of(trainer) / self.folder) as folder:
                with catch_warnings():  # transformers' hint that the CPU takes in a shard at a time
                    filterwarnings("ignore", "Attempting to save a model with offloaded modules")
                    lm.save_pretrained(folder)
                owner.tokenizer.save_pretrained(folder)
                if isinstance(pl_module, Editor):
                    replace_text(folder / "README.md", readme(MODEL, trainer, pl_module))


class SaveChange(L.Callback):
    """Saves the edits' change of the model at the end of a run, with a card that explains its use.

    Low-rank if the run's ledger shows that it is, else as large as the weight.

    Args:
        folder: the target; below the run's folder if relative.
    """

    def __init__(self, folder: str = "change") -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes ``change.safetensors`` and ``README.md``."""
        if not trainer.is_global_zero:
            return
        lm, tensors = checked(pl_module.lm), {}
        pairs = low_rank(folder_of(trainer), pl_module)
        for name, original in pl_module.original.items():
            if name in pairs:
                left, right = pairs[name]
                stored = oriented(lm, name, left) is left
                tensors[f"{name}.left"] = left if stored else right.T
                tensors[f"{name}.right"] = right if stored else left.T
            else:
                tensors[f"{name}.change"] = pl_module.edited.master(name) - original
        known = pl_module.card() | {"cases": pl_module.edited_cases}
        with whole_folder(folder_of(trainer) / self.folder) as folder:
            save(tensors, folder / "change.safetensors")
            card = CARD.format(count=len(known["cases"]), **known)
            replace_text(folder / "README.md", card + "\n" + facts(trainer, pl_module))


class SaveLoRA(L.Callback):
    """Saves the edits as a LoRA adapter for the unedited model, to load with ``peft``.

    Args:
        folder: the target; below the run's folder if relative.
    """

    def __init__(self, folder: str = "lora") -> None:
        self.folder = folder

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses edits of experts.

        Raises:
            ValueError: if some of the edited weights are experts.
        """
        if pl_module.edited.stacks:
            raise ValueError(
                "no LoRA adapter can hold the change of single experts, as of "
                f"{min(pl_module.edited.stacks)}; export with "
                "callbacks.keeping.export.SaveChange instead"
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes ``adapter_config.json`` and ``adapter_model.safetensors``.

        Raises:
            ValueError: if the ledger lacks an edit, or one was not low-rank.
        """
        if not trainer.is_global_zero:
            return
        lm, pairs = checked(pl_module.lm), low_rank(folder_of(trainer), pl_module)
        missing = [
            name
            for name, original in sorted(pl_module.original.items())
            if name not in pairs and not torch.equal(pl_module.edited.master(name), original)
        ]
        if not missing and not pairs:
            raise ValueError("no LoRA adapter: the model holds no edit; see the journal for why")
        if missing:
            raise ValueError(
                f"no LoRA adapter: the ledger of {folder_of(trainer)} has no low-rank change of "
                f"{', '.join(missing)}; export with callbacks.keeping.export.SaveChange instead"
            )
        modules = {name.rpartition(".")[0]: pair for name, pair in pairs.items()}
        ranks = {module: right.shape[0] for module, (_, right) in modules.items()}
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": pl_module.lm_name,
            "inference_mode": True,
            "r": max(ranks.values()),
            "lora_alpha": max(ranks.values()),
            "rank_pattern": ranks,
            "alpha_pattern": ranks,
            "target_modules": sorted(ranks),
            "fan_in_fan_out": isinstance(lm.get_submodule(next(iter(ranks))), Conv1D),
        }
        tensors = {}
        for module, (left, right) in modules.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = right
            tensors[f"base_model.model.{module}.lora_B.weight"] = left
        with whole_folder(folder_of(trainer) / self.folder) as folder:
            save(tensors, folder / "adapter_model.safetensors")
            write_json(folder / "adapter_config.json", config)
            replace_text(folder / "README.md", readme(ADAPTER, trainer, pl_module))


def save(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes tensors from any device."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
