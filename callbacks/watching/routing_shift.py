"""How edits of a mixture of experts change the way that watched tokens take."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from data_modules.records import WatchedText
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.experts import Routed, count_experts, received
from lightning_modules.language_model.layout import blocks, layer_of, output_map, parameter_of

Choices = dict[int, Tensor]  # per layer the experts of each token, (n, k)


class RoutingShift(L.Callback):
    """Measures in every validation where routers send the watched tokens; idle in a dense model.

    The journal gets the number of experts that an edit changed, ``edited_experts``; the share of
    watched tokens that one of them serves, ``edited_experts_load``; and ``routing_shift``, the
    share of all choices, in layers above the lowest edited one, that the unedited model does not
    make at the same token.
    """

    def __init__(self) -> None:
        self.unedited: dict[tuple[int, ...], list[Choices]] = {}
        self.heard: list[Choices] = []
        self.stack = ExitStack()
        self.totals = torch.zeros(4, dtype=torch.float64)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the experts that the edit changed."""
        if touched := experts_of(pl_module):
            pl_module.record["edited_experts"] = sum(map(len, touched.values()))

    def on_validation_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Starts the sums."""
        self.totals = torch.zeros(4, dtype=torch.float64)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: WatchedText, *args: Any
    ) -> None:
        """Listens to the routers; first in the unedited model, if this text is new to it."""
        key = tuple(batch.indices)
        if key not in self.unedited and pl_module.edited_requests:
            with pl_module.edited.unedited(), listening(pl_module) as self.unedited[key]:
                pl_module.watch(batch)
        self.heard = self.stack.enter_context(listening(pl_module))

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: WatchedText, *args: Any
    ) -> None:
        """Compares the choices with those of the unedited model."""
        self.stack.close()
        before = self.unedited.setdefault(tuple(batch.indices), self.heard)
        lowest, touched = pl_module.lowest_layer(), experts_of(pl_module)
        for now, then in zip(self.heard, before, strict=False):  # later passes are others' own
            for layer, chosen in now.items():
                if layer in touched:
                    served = torch.isin(chosen, torch.tensor(sorted(touched[layer]))).any(1)
                    self.totals[2:] += torch.tensor([served.sum(), len(chosen)])
                if layer > lowest and chosen.shape == then[layer].shape:
                    self.totals[:2] += torch.tensor([moved(chosen, then[layer]), chosen.numel()])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Completes the edit's record."""
        shifted, choices, served, tokens = pl_module.share.summed(self.totals, pl_module.device)
        if trainer.sanity_checking:
            return
        if choices:
            pl_module.record["routing_shift"] = float(shifted / choices)
        if tokens:
            pl_module.record["edited_experts_load"] = float(served / tokens)


def experts_of(editor: Editor) -> dict[int, set[int]]:
    """The experts that the current edit has changed, by layer."""
    touched: dict[int, set[int]] = {}
    for name in (update.weight for update in editor.applied):
        if name != parameter_of(name):
            expert = int(name.removeprefix(parameter_of(name)).strip("[]"))
            touched.setdefault(layer_of(editor.lm, name), set()).add(expert)
    return touched


def moved(now: Tensor, before: Tensor) -> int:
    """How many of the choices ``(n, k)`` were not made before at the same token."""
    return int((now[:, :, None] != before[:, None]).all(2).sum())


@contextmanager
def listening(editor: Editor) -> Iterator[list[Choices]]:
    """Inside, collects for every pass the experts of each token, without padding."""
    lm = editor.lm
    maps = {layer: output_map(lm, layer) for layer in range(len(blocks(lm)))}
    passes: list[Choices] = []
    masks: list[Tensor] = []

    def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
        passes.append({})
        masks.append(kwargs["attention_mask"].flatten().bool())

    def hook_for(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            routed = received(module, args, kwargs)
            assert isinstance(routed, Routed)
            passes[-1][layer] = routed.chosen[masks[-1]].short().cpu()

        return hook

    sparse = {layer: experts for layer, experts in maps.items() if count_experts(experts)}
    with ExitStack() as stack:
        if sparse:
            handle = lm.register_forward_pre_hook(begin, with_kwargs=True)
            stack.callback(handle.remove)
        for layer, experts in sparse.items():
            handle = experts.register_forward_pre_hook(hook_for(layer), with_kwargs=True)
            stack.callback(handle.remove)
        yield passes
