"""The same edits in one layer after another, to see which layer suits a method."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.editor import Editor
from ..language_model.layout import blocks


class LayerStudy(Editor):
    """Edits every request in every layer: an epoch is a layer, its edits those of the method there.

    Edits are to stand alone (RestoreWeights). The journal's lines tell their ``layer``.

    Args:
        method: a method of one layer, such as ROME; its options but for the layer.
        layers: which; every ``stride``-th of the model's if null.
        stride: from one layer to the next.
    """

    editor: Editor

    def __init__(
        self,
        method: Callable[[int], Editor],
        layers: list[int] | None = None,
        stride: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if stride <= 0:
            raise ValueError(f"stride must be positive, got {stride}")
        self.method = method
        self.layers = layers or []
        self.stride = stride

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes a model, to begin in the first layer."""
        self.layers = self.layers or list(range(0, len(blocks(lm)), self.stride))
        self.lm = lm
        self.turn_to(self.layers[0])
        super().attach(lm, tokenizer)

    def turn_to(self, layer: int) -> None:
        """Makes the method anew, for another layer of the same model."""
        self.layer = layer
        self.editor = self.method(layer)
        self.editor.lm = self.lm

    def on_fit_start(self) -> None:
        """Lets the run have an epoch for each layer."""
        self.trainer.fit_loop.max_epochs = len(self.layers)

    def on_train_epoch_start(self) -> None:
        """Goes on to the epoch's layer, from the unedited model."""
        self.restore()
        self.turn_to(self.layers[self.current_epoch])
        super().attach(self.lm, self.tokenizer)
        self.sweep = None
        self.editor.borrow(self)
        self.editor.prepare()

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """The method's edit in the present layer."""
        self.record |= {"method": type(self.editor).__name__, "layer": self.layer}
        self.editor.record = self.record
        yield from self.editor.edit(requests)

    def edited_weights(self) -> list[str]:
        """Those that the method edits in the present layer."""
        return self.editor.edited_weights()

    def look_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Lets the method work on coming edits at once."""
        self.editor.look_ahead(batches)

    def card(self) -> dict[str, Any]:
        """Adds the method and the layers."""
        return super().card() | {"method": type(self.editor).__name__, "layers": self.layers}
