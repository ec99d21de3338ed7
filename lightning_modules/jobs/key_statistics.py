"""Estimates the second moments of keys: all requested layers in one pass, on any devices."""

import math
from statistics import mean
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from data_modules.records import WatchedText

from ..editing.second_moments import KIND, require_tokens, save_second_moments
from ..functional.least_squares import condition_number
from ..functional.second_moment import SecondMoment, unpack
from ..language_model.device_map import Room, room_of
from ..language_model.kernels import use_fast_kernels
from ..language_model.keys import Place, key_widths, token_keys
from ..language_model.layout import blocks, output_map
from ..language_model.loading import Dtype, artefact_file, fingerprint, load
from ..language_model.positions import begin_at, longest_text
from ..language_model.rope import rope_boundary
from ..language_model.scoring import batches_by_length
from ..language_model.split import give
from ..language_model.tokens import special_before
from .convergence import FIGURES, Convergence

BATCHES_WAITING = 16  # batches whose windows are sorted by length together
LONGEST_WINDOW = 1024  # tokens; the papers' models read as many, their statistics too


class Window(NamedTuple):
    """A piece of a document: its tokens, and how many tokens of the corpus precede it."""

    place: int
    tokens: list[int]


class KeyStatistics(L.LightningModule):
    """Estimates the second moment C of the keys of one or more layers in one pass over a corpus.

    Documents are cut into windows. Each window is a text of its own and runs with windows of
    similar length, so there is little padding; the pass ends at the deepest layer. After each
    doubling of the tokens it reports how far ``C⁻¹ k``, the direction of an edit, still moved (the
    mean cosine, over sample keys, between now and half the tokens) and by how much the moments of
    the two halves differ. The statistics are those of the first ``tokens`` tokens of the corpus for
    any number of devices.

    Args:
        lm: ``embedded``, a folder, a GGUF file, or a model's name on the hub.
        layers: numbers of the layers; all if null.
        tokens: number of tokens; ten times the MLP's width is a good start.
        window: longest piece of a document, in tokens; each begins with the model's special token,
            if it has one. If null, the longest text of the model, at most 1,024, as published.
        batch_tokens: most tokens of one forward pass, padding included; bounds memory.
        output: file to write; by default the one that the editors read.
        dtype: of the model's weights; the same as when editing.
        trust_remote_code: run code that comes with the model.
        first_position: of each text's first token; the same as when editing.
        device_map: as when editing: where the layers of a model lie that one device cannot hold.
    """

    def __init__(
        self,
        lm: str = "embedded",
        layers: list[int] | None = None,
        tokens: int = 100_000,
        window: int | None = None,
        batch_tokens: int = 2048,
        output: str | None = None,
        dtype: Dtype = "float32",
        trust_remote_code: bool = False,
        first_position: int = 0,
        device_map: str | None = None,
    ) -> None:
        super().__init__()
        self.lm_name = lm
        self.layers, self.tokens, self.window = layers, tokens, window
        self.batch_tokens, self.output = batch_tokens, output
        self.dtype_name = dtype
        self.trust_remote_code = trust_remote_code
        self.first_position, self.device_map = first_position, device_map
        self.room: Room | None = None
        self.lm: Any = None

    def setup(self, stage: str) -> None:
        """Finds the devices that a split model may use."""
        if self.device_map is not None:
            self.room = room_of(self.trainer.strategy.root_device, self.trainer.num_devices)

    def configure_model(self) -> None:
        """Loads the language model, once.

        Raises:
            ValueError: if a layer does not exist, the window does not fit the model, or the
                tokens are fewer than a key is wide.
        """
        if self.lm is not None:
            return
        how = self.dtype_name, self.trust_remote_code, self.device_map, self.room
        lm, self.tokenizer = load(self.lm_name, *how)
        give(self, lm)
        use_fast_kernels(lm)
        begin_at(lm, self.first_position)
        layers = self.layers or range(len(blocks(lm)))
        self.maps = {layer: output_map(lm, layer) for layer in layers}
        self.widths = key_widths(lm, layers)
        self.width = max(self.widths.values())
        require_tokens(self.tokens, self.width, f"key statistics of {self.lm_name!r}")
        self.beginning = special_before(self.tokenizer)
        longest = longest_text(lm)
        window = min(longest, LONGEST_WINDOW) if self.window is None else self.window
        if not len(self.beginning) < window <= longest:
            raise ValueError(
                f"window must be in [{len(self.beginning) + 1}, {longest}] tokens for "
                f"{self.lm_name!r}, got {window}"
            )
        self.window, self.step = window, window - len(self.beginning)

    def on_test_start(self) -> None:
        """Starts the sums at zero; checks early that the file can be written."""
        self.fingerprint = fingerprint(self.lm, self.tokenizer)
        self.file = artefact_file(KIND, self.output, self.lm_name, self.fingerprint)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.sums = {at: SecondMoment(width, self.device) for at, width in self.widths.items()}
        self.about: dict[Place, dict] = {at: {name: {} for name in FIGURES} for at in self.widths}
        self.convergence: dict[Place, Convergence] = {}
        self.waiting: list[Window] = []
        self.read = self.counted = self.computed = self.total = 0
        halvings = int(math.log2(self.tokens / self.width))
        self.goals = [self.tokens >> halving for halving in range(halvings, -1, -1)]

    def test_step(self, batch: WatchedText, batch_idx: int) -> None:
        """Adds the keys of a batch of texts until the token budget is spent."""
        self.waiting += self.windows(batch)
        while self.goals and self.read >= self.goals[0]:
            goal = self.goals.pop(0)
            self.count([window for window in self.waiting if window.place < goal])
            self.waiting = [window for window in self.waiting if window.place >= goal]
            self.report()
        if sum(len(w.tokens) for w in self.waiting) >= BATCHES_WAITING * self.batch_tokens:
            self.count(self.waiting)
            self.waiting = []
        if self.read >= self.tokens:
            raise StopIteration  # ends Lightning's test loop, which reads its limits beforehand

    def windows(self, batch: WatchedText) -> list[Window]:
        """This device's windows within the budget, given the other devices' numbers of tokens."""
        encoded = self.tokenizer(batch.texts, add_special_tokens=False, verbose=False)["input_ids"]
        documents = [
            [self.beginning + ids[at : at + self.step] for at in range(0, len(ids), self.step)]
            for ids in encoded
        ]
        lengths = [sum(map(len, pieces)) for pieces in documents]
        table = torch.zeros(self.trainer.world_size, 2, len(documents), dtype=torch.long)
        table[self.global_rank] = torch.tensor([batch.indices, lengths])
        indices, lengths_of_all = self.summed(table.to(self.device)).unbind(1)
        order = indices.flatten().argsort()
        ends = self.read + lengths_of_all.flatten()[order].cumsum(0)
        end_of = dict(zip(indices.flatten()[order].tolist(), ends.tolist(), strict=True))
        self.read = int(ends[-1])
        found = []
        for index, length, pieces in zip(batch.indices, lengths, documents, strict=True):
            place = end_of[index] - length
            for piece in pieces:
                if place < self.tokens:
                    found.append(Window(place, piece[: self.tokens - place]))
                place += len(piece)
        return found

    def count(self, windows: list[Window]) -> None:
        """Adds the keys of all tokens of these windows, longest windows first."""
        lengths = [len(window.tokens) for window in windows]
        for numbers in reversed(
            list(batches_by_length(lengths, self.batch_tokens, rope_boundary(self.lm)))
        ):
            self.add([windows[number].tokens for number in numbers])

    def add(self, rows: list[list[int]]) -> None:
        """Adds ``Σ k kᵀ`` over all tokens of the rows, without padding."""
        for place, keys in token_keys(self.lm, self.maps, rows).items():
            self.sums[place].add(keys)
            if place not in self.convergence:
                self.convergence[place] = Convergence(keys)
        self.counted += sum(map(len, rows))
        self.computed += len(rows) * max(map(len, rows))

    def summed(self, number: Tensor) -> Tensor:
        """The sum over all devices."""
        return self.trainer.strategy.reduce(number, reduce_op="sum")

    def report(self) -> None:
        """Reports how far the moments have converged since the last report."""
        self.total = int(self.summed(torch.tensor(self.counted, device=self.device)))
        found = {}
        for place, running in self.sums.items():
            moment = self.summed(running.total()) / self.total
            if self.trainer.is_global_zero and place in self.convergence:
                for name, figure in self.convergence[place].compare(moment, self.total).items():
                    self.about[place][name][self.total] = found[f"{name}/layer.{place}"] = figure
        for name, words in FIGURES.items():
            layers = self.of_layers(name).items()
            listed = [f"layer.{layer} {mean(figures):.3f}" for layer, figures in layers if figures]
            if listed:
                rank_zero_info(f"{self.total} tokens, {words}: {', '.join(listed)}")
        if found:
            for logger in self.loggers:
                logger.log_metrics(found, self.total)

    def of_layers(self, name: str) -> dict[int, list[float]]:
        """The present values of a figure by layer; of one with experts, each expert's."""
        found: dict[int, list[float]] = {layer: [] for layer in self.maps}
        for place, known in self.about.items():
            if self.total in known[name]:
                found[int(str(place).partition(".")[0])].append(known[name][self.total])
        return found

    def on_test_epoch_end(self) -> None:
        """Counts the remaining windows.

        Raises:
            ValueError: if the corpus has fewer tokens than a key is wide.
        """
        self.count(self.waiting)
        if self.goals:
            total = int(self.summed(torch.tensor(self.counted, device=self.device)))
            require_tokens(total, self.width, f"key statistics of {self.lm_name!r}")
            rank_zero_warn(f"the corpus ended after {total} of {self.tokens} tokens")
            self.report()
        self.log("tokens", float(self.total), batch_size=1, sync_dist=True)

    def on_test_end(self) -> None:
        """Writes the packed means and how they were estimated."""
        if not self.trainer.is_global_zero:
            return
        moments = {
            place: self.convergence[place].moment
            if place in self.convergence  # else an expert that served no token
            else torch.zeros(width * (width + 1) // 2)
            for place, width in self.widths.items()
        }
        for place, triangle in moments.items():
            self.about[place] |= {
                "tokens": self.total,
                "window": self.window,
                "dtype": self.dtype_name,
                "condition": condition_number(unpack(triangle).to(self.device)),
            }
        save_second_moments(self.file, self.lm_name, self.fingerprint, moments, self.about)
