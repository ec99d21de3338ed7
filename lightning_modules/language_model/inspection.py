"""Blocks and MLP output maps of an unknown model, found by running it twice."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .experts import is_experts, require_stacked_experts
from .hooks import Calls, moving, tracing_calls

TOKENS, PLACE = 8, 3  # of the probe; the token whose value is shifted
MLP = re.compile(r"mlp|ffn|feed_?forward|ff_|fc", re.IGNORECASE)
NOT_MLP = re.compile(r"att|mamba|mixer|ssm|conv|lora|adapter|per_layer", re.IGNORECASE)


class Layout(NamedTuple):
    """Module paths of one family, and how a value reaches the residual stream.

    Attributes:
        blocks: the list of transformer blocks, from the root.
        output: the MLP's output map, from a block; its input is the key, its output the value.
        returns_tuple: whether a block returns a sequence that starts with the hidden states.
        norm_behind: the norm between the value and the block's output, from a block; empty if the
            value is simply added to the residual stream.
        scale: factor of the value in the block's output, such as Granite's residual multiplier;
            None if the two are related in another way.
        experts: of a mixture of experts, the module that stands in the place of the output map in
            blocks that have it, from a block.
    """

    blocks: str
    output: str
    returns_tuple: bool = False
    norm_behind: str = ""
    scale: float | None = 1.0
    experts: str = ""

    def output_of(self, block: nn.Module) -> str:
        """The path of a block's output map, or of its experts."""
        return self.experts if self.experts and _has(block, self.experts) else self.output


def probe_tokens(lm: PreTrainedModel) -> Tensor:
    """A few distinct tokens, ``(1, t)``."""
    vocabulary: Any = lm.get_input_embeddings().weight
    return ((7 * torch.arange(TOKENS) + 11) % len(vocabulary))[None].to(lm.device)


def tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference that counts as rounding: 7e-4 in float32, 0.18 in bfloat16.

    In float64 2e-7, as families compute rotations and attention in float32 whatever the type.
    """
    return 2 * max(torch.finfo(dtype).eps ** 0.5, torch.finfo(torch.float32).eps)


@torch.no_grad()
def find_layout(lm: PreTrainedModel) -> Layout:
    """Finds blocks, output map and the value's path to the residual stream.

    The blocks are the longest list of modules that each map hidden states to hidden states. The
    output map is a linear map of a block, outside of attention, whose output is as wide as the
    hidden states: preferably named like an MLP's, then with the widest input, then the last to run.
    In a block with experts these take its place. Shifting a value at one token shows how it reaches
    the block's output.

    Raises:
        ValueError: if there is no such list or map, or not one map per block.
    """
    require_stacked_experts(lm)
    calls = _calls(lm)
    path = _blocks_path(lm, calls)
    blocks = list(lm.get_submodule(path).children())
    experts = _experts_path(lm, blocks)
    dense = [block for block in blocks if not experts or not _has(block, experts)]
    sparse = [block for block in blocks if block not in dense]
    output = _output_path(lm, dense, calls) if dense else experts
    kinds = [kind for kind in ((dense, output), (sparse, experts)) if kind[0]]
    (scale, norm), *others = [
        _way(lm, kind[min(1, len(kind) - 1)], inner, calls) for kind, inner in kinds
    ]
    if norm and not all(_has(other, norm) for other in blocks):
        scale, norm = None, ""
    if any(other[1] != norm or not _alike(other[0], scale) for other in others):
        raise ValueError(_unknown(lm, "values of its dense and its sparse blocks take other ways"))
    return Layout(path, output, calls[blocks[0]][0].several, norm, scale, experts)


def _alike(one: float | None, other: float | None) -> bool:
    """Whether two factors are equal but for rounding."""
    return one == other or (None not in (one, other) and math.isclose(one, other, rel_tol=1e-3))  # type: ignore[arg-type]


def _experts_path(lm: PreTrainedModel, blocks: Sequence[nn.Module]) -> str:
    """The path of the experts in every block that has some; empty if none has."""
    paths = {path for block in blocks for path, inner in block.named_modules() if is_experts(inner)}
    if len(paths) > 1:
        raise ValueError(_unknown(lm, f"its experts differ: {' or '.join(sorted(paths))}"))
    return next(iter(paths), "")


def _calls(lm: PreTrainedModel) -> Calls:
    """All module calls in a pass over the probe."""
    with tracing_calls(lm) as calls:
        try:
            lm(probe_tokens(lm), use_cache=False)
        except Exception as error:  # of any kind: the model's own code
            told = " ".join(str(error).split())[:200]
            why = f"a pass over a few tokens fails ({told})"
            raise ValueError(_unknown(lm, why)) from error
    return calls


def _blocks_path(lm: PreTrainedModel, calls: Calls) -> str:
    """The longest list whose members each ran once and map hidden states to hidden states."""

    def is_block(module: nn.Module) -> bool:
        ran = calls.get(module, [])
        return len(ran) == 1 and ran[0].output.shape == (1, TOKENS, ran[0].output.shape[-1])

    lists = {
        path: len(module)
        for path, module in lm.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and not NOT_MLP.search(path)
        and all(map(is_block, module))
    }
    if not lists:
        raise ValueError(_unknown(lm, "no list of blocks runs once each over hidden states"))
    return max(lists, key=lists.__getitem__)


def _output_path(lm: PreTrainedModel, blocks: Sequence[nn.Module], calls: Calls) -> str:
    """The path of the output map, the same in every block."""
    paths = {_most_like_an_output(block, calls) for block in blocks}
    if "" in paths:
        raise ValueError(_unknown(lm, "a block has no linear map outside of attention"))
    if len(paths) > 1:
        raise ValueError(_unknown(lm, f"its blocks differ: {' or '.join(sorted(paths))}"))
    (path,) = paths
    if len({block.get_submodule(path) for block in blocks}) < len(blocks):
        raise ValueError(_unknown(lm, f"its blocks share one {path!r}"))
    return path


def _most_like_an_output(block: nn.Module, calls: Calls) -> str:
    """The best map by name, then by input width, then by order; empty if no map qualifies."""
    returned = calls[block][0].output
    order = {module: place for place, module in enumerate(calls)}

    def will_do(path: str, module: nn.Module) -> bool:
        ran = calls.get(module, [])
        linear = isinstance(module, nn.Linear | Conv1D) and not NOT_MLP.search(path)
        return (
            linear
            and len(ran) == 1
            and ran[0].output.numel() == returned.numel()
            and ran[0].output.shape[-1] == returned.shape[-1]
        )

    ranks = {
        path: (bool(MLP.search(path)), calls[module][0].inputs.shape[-1], order[module])
        for path, module in block.named_modules()
        if will_do(path, module)
    }
    return max(ranks, key=ranks.__getitem__, default="")


def _way(
    lm: PreTrainedModel, block: nn.Module, path: str, calls: Calls
) -> tuple[float | None, str]:
    """A value's factor in the block's output, and the path of the norm that it passes through."""
    output = calls[block][0].output
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(1, output.shape[-1], generator=chance, device="cpu")
    added = (output.float().square().mean().sqrt().cpu() * noise).to(output)
    with moving(block.get_submodule(path), added, torch.tensor([PLACE], device=lm.device)):
        moved = _calls(lm)
    change = added[0].double()

    def shift(module: nn.Module, part: str) -> Tensor:
        now, before = (getattr(ran[module][0], part).double() for ran in (moved, calls))
        return (now - before).reshape(TOKENS, -1)[PLACE]

    reached = shift(block, "output")
    small = tolerance(calls[block][0].output.dtype) * change.norm()

    def alike(one: Tensor, other: Tensor) -> bool:
        return one.shape == other.shape and bool((one - other).norm() <= small)

    scale = float(reached @ change / change.square().sum())
    if alike(reached, scale * change) and abs(scale) * change.norm() > small:
        return (1.0 if alike(reached, change) else scale), ""
    for path, module in reversed(list(block.named_modules())):
        if path and len(calls.get(module, [])) == 1 and len(moved.get(module, [])) == 1:
            inputs, outputs = shift(module, "inputs"), shift(module, "output")
            if alike(inputs, change) and alike(outputs, reached):
                return 1.0, path
    return None, ""


def _has(block: nn.Module, path: str) -> bool:
    return any(path == own for own, _ in block.named_modules())


def _unknown(lm: PreTrainedModel, why: str) -> str:
    return (
        f"model family {lm.config.model_type!r} cannot be edited as it is: {why}. If it is a dense "
        "decoder, give it a row in LAYOUTS (lightning_modules/language_model/layout.py): the path "
        "of its blocks and of the MLP's output map"
    )
