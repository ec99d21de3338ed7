"""The same edits in one layer after another, to see which layer suits a method."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.editor import Editor
from ..editing.expert_edits import editable_weights
from ..editing.record import declare
from ..editing.record_fields import Field
from ..language_model.layout import blocks, layer_of, output_map

declare(Field("layer", int, "from 0", "The layer of a layer study's edit.", "LayerStudy"))


class LayerStudy(Editor):
    """Edits every request in every layer; each epoch edits in one layer.

    It needs single edits (RestoreWeights). The journal's lines hold their ``layer``.

    Args:
        method: its class and options; its layer must be the first one.
        layers: layers to study; every ``stride``-th of the model if null.
        stride: distance between layers.
    """

    editor: Editor
    edits_experts = True

    def __init__(
        self,
        method: Callable[[Any], Editor],
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
        """Takes a model, and starts in the first layer.

        Raises:
            ValueError: if a layer does not exist.
        """
        self.layers = self.layers or list(range(0, len(blocks(lm)), self.stride))
        for layer in self.layers:
            output_map(lm, layer)
        self.lm, self.tokenizer = lm, tokenizer
        self.turn_to(self.layers[0])

    def turn_to(self, layer: int) -> None:
        """Creates the method for another layer of the unedited model.

        Raises:
            ValueError: if it does not edit exactly this layer.
        """
        self.layer, self.editor = layer, self.made(layer)
        self.editor.lm = self.lm  # it is asked for its weights
        if {layer_of(self.lm, name) for name in editable_weights(self.editor)} != {layer}:
            raise ValueError(
                f"{type(self.editor).__name__} does not take a layer as its first option; study a "
                "method that does, such as ROME, EMMET or FineTuning"
            )
        super().attach(self.lm, self.tokenizer)
        self.editor.borrow(self)
        self.transform, self.sweep = self.editor.transform, None

    def made(self, layer: int) -> Editor:
        """The method for a layer; some take a number, some a list."""
        try:
            return self.method(layer)
        except TypeError:
            return self.method([layer])

    def on_fit_start(self) -> None:
        """Sets one epoch per layer."""
        super().on_fit_start()
        self.trainer.fit_loop.max_epochs = len(self.layers)

    def on_train_epoch_start(self) -> None:
        """Turns to the epoch's layer."""
        layer = self.layers[self.current_epoch]
        if layer != self.layer:
            self.restore()
            self.turn_to(layer)
            self.prepare()

    def prepare(self) -> None:
        """Prepares the method in the current layer."""
        self.editor.share = self.share
        self.editor.prepare()

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """The method's edit in the current layer."""
        self.record |= {"method": type(self.editor).__name__, "layer": self.layer}
        self.editor.record, self.editor.history = self.record, self.history
        yield from self.editor.edit(requests)

    def worded(self, request: EditRequest) -> EditRequest:
        """The request as the method evaluates it."""
        self.editor.record = self.record
        return self.editor.worded(request)

    def edited_weights(self) -> list[str]:
        """The weights that the method edits in the current layer."""
        return self.editor.edited_weights()

    def look_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Lets the method work on coming edits at once."""
        self.editor.look_ahead(batches)

    def card(self) -> dict[str, Any]:
        """The method's card, with all layers in place of its own."""
        own = {name: fact for name, fact in self.editor.card().items() if name != "weights"}
        return own | {"layers": self.layers}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues in the layer of the checkpoint."""
        self.turn_to(self.layers[checkpoint["epoch"]])
        super().on_load_checkpoint(checkpoint)
