"""Gradients at linear maps, kept as factors, and linear maps under low-rank updates."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .layout import output_map, output_weight_name
from .passes import picked_logits
from .targets import Targets, place_targets
from .tokens import Span, collate

TEXTS_PER_PASS = 16


class Factors(NamedTuple):
    """The gradient of a weight ``(out, in)`` as ``gradientsᵀ inputs``: one row per token.

    Attributes:
        inputs: ``(n, in)``, float32, u: the map's input.
        gradients: ``(n, out)``, float32, δ: the loss' gradient at the map's output.
    """

    inputs: Tensor
    gradients: Tensor


def mlp_weight_names(lm: PreTrainedModel, layer: int) -> list[str]:
    """Full names of the weights of all linear maps in a layer's MLP, the output map included."""
    output_map(lm, layer)  # refuses a layer that does not exist
    parent = output_weight_name(lm, layer).removesuffix(".weight").rpartition(".")[0]
    return [
        f"{parent}.{name}.weight"
        for name, module in lm.get_submodule(parent).named_children()
        if isinstance(module, nn.Linear | Conv1D)
    ]


def map_of(lm: PreTrainedModel, weight: str) -> nn.Module:
    """The linear map that a weight belongs to."""
    return lm.get_submodule(weight.removesuffix(".weight"))


def target_logits(lm: PreTrainedModel, targets: Targets) -> Tensor:
    """Logits of the target tokens, ``(n, v)``, float32."""
    batch = collate(targets.texts, lm.device)
    return picked_logits(lm, batch, targets.rows, targets.columns).float()


@contextmanager
def tracing(lm: PreTrainedModel, weights: Iterable[str]) -> Iterator[dict[str, tuple]]:
    """Collects, per weight, its map's input and a zero added to its output, for its gradient."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook_for(weight: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            probe = torch.zeros_like(output, requires_grad=True)
            seen[weight] = args[0].detach(), probe
            return output + probe

        return hook

    with ExitStack() as stack:
        for weight in weights:
            handle = map_of(lm, weight).register_forward_hook(hook_for(weight))
            stack.callback(handle.remove)
        yield seen


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_factors(
    lm: PreTrainedModel, spans: Sequence[Span], weights: Sequence[str], at_targets: bool = False
) -> dict[str, Factors]:
    """The loss' gradient at each weight; the loss is the mean NLL of all target tokens.

    Args:
        lm: the model, frozen.
        spans: texts with their targets.
        weights: full names of linear maps' weights.
        at_targets: keep only the rows of tokens whose logits predict a target.

    Returns:
        The factors per weight, for the tokens that affect the loss, text by text.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    found: dict[str, list[Factors]] = {weight: [] for weight in weights}
    tokens = sum(len(span.tokens) - span.start for span in spans)
    for at in range(0, len(spans), TEXTS_PER_PASS):
        targets = place_targets(spans[at : at + TEXTS_PER_PASS], "teacher_forced", lm.device)
        with tracing(lm, weights) as seen:
            logits = target_logits(lm, targets)
            loss = F.cross_entropy(logits, targets.tokens, reduction="sum") / tokens
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of the requests is {loss.item()}")
        gradients = torch.autograd.grad(loss, [seen[weight][1] for weight in weights])
        for weight, gradient in zip(weights, gradients, strict=True):
            shape = (len(targets.texts), -1, gradient.shape[-1])
            rows = gradient.view(shape).float().to(lm.device)
            inputs = seen[weight][0].view(*rows.shape[:2], -1).float().to(lm.device)
            kept = (targets.rows, targets.columns) if at_targets else rows.any(-1)
            found[weight].append(Factors(inputs[kept], rows[kept]))
    return {
        weight: Factors(*map(torch.cat, zip(*parts, strict=True)))
        for weight, parts in found.items()
    }


@contextmanager
def changed(lm: PreTrainedModel, changes: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside, weights act as ``W + left @ right``; W is untouched, gradients reach the factors.

    Args:
        lm: the model.
        changes: per weight ``left (out, r)`` and ``right (r, in)``.
    """

    def hook_for(left: Tensor, right: Tensor) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return output + (args[0].to(right) @ right.T @ left.T).to(output)

        return hook

    with ExitStack() as stack:
        for weight, (left, right) in changes.items():
            handle = map_of(lm, weight).register_forward_hook(hook_for(left, right))
            stack.callback(handle.remove)
        yield
