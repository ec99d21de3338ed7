"""Second moments of an MLP's keys: computed once per model, kept with a fingerprint."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_modules.records import WatchedText

from .language_model.layout import blocks, output_map
from .language_model.loading import EMBEDDED, Dtype, fingerprint, load
from .language_model.passes import recording
from .language_model.tokens import collate

CACHE = Path("cache") / "key_statistics"


def statistics_file(path: str | None, lm_name: str, model: str) -> Path:
    """Where a model's second moments are kept.

    Args:
        path: a file given by the user, which wins.
        lm_name: the model's name.
        model: the model's fingerprint.
    """
    if path is not None:
        return Path(path)
    if lm_name == "embedded":
        return EMBEDDED / "key_statistics.safetensors"
    return CACHE / f"{lm_name.strip('/').replace('/', '--')}-{model[:12]}.safetensors"


def load_second_moment(path: str | None, lm_name: str, model: str, layer: int) -> Tensor:
    """The mean of ``k kᵀ`` over the corpus, ``(f, f)``, float32.

    Raises:
        FileNotFoundError: if there is no file of statistics.
        ValueError: if it is of another model, or lacks the layer.
    """
    file = statistics_file(path, lm_name, model)
    if not file.is_file():
        raise FileNotFoundError(
            f"no key statistics of {lm_name!r} at {file}; make them with: python train.py test "
            f"--config key-statistics.yaml --model.lm {lm_name} --model.layers [{layer}], or "
            "leave them out by --model.second_moment identity"
        )
    with safe_open(file, "pt") as stored:
        if stored.metadata()["fingerprint"] != model:
            raise ValueError(
                f"{file} holds key statistics of {stored.metadata()['lm']!r} with other weights "
                f"than those of {lm_name!r}; compute them anew with key-statistics.yaml"
            )
        if f"layer.{layer}" not in stored.keys():  # noqa: SIM118 - not a mapping
            raise ValueError(f"{file} has no layer {layer}, but {', '.join(stored.keys())}")
        return unpack(stored.get_tensor(f"layer.{layer}"))


def pack(moment: Tensor) -> Tensor:
    """The lower triangle of a symmetric ``(f, f)``, as float32 ``(f (f + 1) / 2,)``."""
    return moment[torch.tril_indices(*moment.shape).unbind()].float()


def unpack(triangle: Tensor) -> Tensor:
    """The symmetric matrix whose lower triangle was packed."""
    size = int(((8 * len(triangle) + 1) ** 0.5 - 1) / 2)
    moment = triangle.new_zeros(size, size)
    rows, columns = torch.tril_indices(size, size)
    moment[rows, columns] = triangle
    moment[columns, rows] = triangle
    return moment


class KeyStatistics(L.LightningModule):
    """Estimates the second moment of the keys of one or more layers in one pass over a corpus.

    Args:
        lm: ``embedded``, a folder, or a model's name on the hub.
        layers: which; all of them if null.
        tokens: how many tokens are counted; a few times the MLP's width is enough.
        window: longest piece of a document that goes through the model at once, in tokens.
        output: file to write; by default where the editors look for it.
        dtype: of the model's weights.
        trust_remote_code: run code that comes with the model.
    """

    def __init__(
        self,
        lm: str = "embedded",
        layers: list[int] | None = None,
        tokens: int = 100_000,
        window: int = 128,
        output: str | None = None,
        dtype: Dtype = "float32",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.lm_name = lm
        self.layers = layers
        self.tokens = tokens
        self.window = window
        self.output = output
        self.dtype_name = dtype
        self.trust_remote_code = trust_remote_code
        self.lm: Any = None

    def configure_model(self) -> None:
        """Loads the language model, once."""
        if self.lm is None:
            self.lm, self.tokenizer = load(self.lm_name, self.dtype_name, self.trust_remote_code)
            self.layers = self.layers or list(range(len(blocks(self.lm))))
            self.maps = {layer: output_map(self.lm, layer) for layer in self.layers}

    def on_test_start(self) -> None:
        """Starts the sums at zero."""
        self.counted = 0
        self.sums: dict[int, Tensor] = {}

    def test_step(self, batch: WatchedText, batch_idx: int) -> None:
        """Adds the keys of a batch of texts, until the budget of tokens is spent."""
        pieces: list[list[int]] = []
        for text in batch.texts:
            ids = self.tokenizer(text, verbose=False)["input_ids"]
            pieces += [ids[at : at + self.window] for at in range(0, len(ids), self.window)]
        for at in range(0, len(pieces), 16):
            if self.counted < self.tokens:
                self.add(pieces[at : at + 16])
        self.log("tokens", float(self.counted), prog_bar=True, batch_size=1, reduce_fx="max")
        if self.counted >= self.tokens:
            raise StopIteration  # ends Lightning's test loop, which reads its limits beforehand

    @torch.no_grad()
    def add(self, pieces: list[list[int]]) -> None:
        """Adds ``Σ k kᵀ`` over all tokens of the pieces, padding left out, in float64."""
        batch = collate(pieces, self.device)
        with recording(self.maps, stop_at=self.maps[max(self.maps)]) as seen:
            self.lm(
                batch.tokens,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
            )
        real = batch.mask.flatten().bool()
        for layer, (keys, _) in seen.items():
            keys = keys.reshape(len(real), -1)[real].double()
            self.sums[layer] = self.sums.get(layer, 0) + keys.T @ keys
        self.counted += int(real.sum())

    def on_test_end(self) -> None:
        """Writes the means, packed, with what they were computed from."""
        model = fingerprint(self.lm, self.tokenizer)
        file = statistics_file(self.output, self.lm_name, model)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {f"layer.{layer}": pack(total / self.counted) for layer, total in self.sums.items()},
            file,
            {"fingerprint": model, "lm": self.lm_name, "tokens": str(self.counted)},
        )
