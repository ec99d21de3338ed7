"""Where a language model keeps its blocks and the linear maps to edit."""

import re
from typing import cast

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .experts import count_experts, is_experts
from .inspection import Layout, find_layout

LLAMA = Layout("model.layers", "mlp.down_proj")
GEMMA = LLAMA._replace(norm_behind="post_feedforward_layernorm")
SLICE = re.compile(r"\[(\d+)\]$")
LAYOUTS = {
    "gpt2": Layout("transformer.h", "mlp.c_proj"),
    "gptj": Layout("transformer.h", "mlp.fc_out", returns_tuple=True),
    "gpt_neox": Layout("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "opt": Layout("model.decoder.layers", "fc2"),
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": LLAMA,
}


def require_decoder(config: PretrainedConfig) -> None:
    """Refuses models without editable weights.

    Raises:
        ValueError: if the model is an encoder-decoder, or quantised.
    """
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{kind!r} is an encoder-decoder; decoder-only models can be edited")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"this {kind!r} model is quantised and its weights cannot take an update; load the "
            "unquantised checkpoint, in bfloat16 if memory is short"
        )


def names_experts(config: PretrainedConfig) -> bool:
    """Whether a config names several experts."""
    text = config.get_text_config(decoder=True)
    experts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    sparse = getattr(text, "is_moe", True)  # Doge is dense and names a number of experts
    return sparse and any((getattr(text, name, None) or 1) > 1 for name in experts)


def layout_of(lm: PreTrainedModel) -> Layout:
    """A model's layout: its family's row in ``LAYOUTS``, or the result of inspection, run once.

    Raises:
        ValueError: if the model cannot be edited.
    """
    kind = lm.config.model_type
    if kind == "opt" and not lm.config.do_layer_norm_before:
        return LAYOUTS[kind]._replace(norm_behind="final_layer_norm")
    if kind in LAYOUTS:
        return LAYOUTS[kind]
    if not hasattr(lm, "found_layout"):
        require_decoder(lm.config)
        lm.found_layout = find_layout(lm)  # type: ignore[assignment] # of a tuple, not a module
    return cast(Layout, lm.found_layout)


def blocks(lm: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks, in order."""
    return cast(nn.ModuleList, lm.get_submodule(layout_of(lm).blocks))


def output_map(lm: PreTrainedModel, layer: int) -> nn.Module:
    """The MLP output map of a layer: keys ``(…, f)`` in, values ``(…, d)`` out; or its experts.

    Raises:
        ValueError: if the layer does not exist.
    """
    count = len(blocks(lm))
    if not 0 <= layer < count:
        raise ValueError(f"layer must be in [0, {count}) for this model, got {layer}")
    block = blocks(lm)[layer]
    return block.get_submodule(layout_of(lm).output_of(block))


def norm_behind(lm: PreTrainedModel, layer: int) -> nn.Module | None:
    """The norm that a layer's value passes through before the block's output."""
    path = layout_of(lm).norm_behind
    return blocks(lm)[layer].get_submodule(path) if path else None


def values_add_up(lm: PreTrainedModel) -> bool:
    """Whether MLP outputs are simply added to the residual stream."""
    layout = layout_of(lm)
    return layout.scale == 1 and not layout.norm_behind


def output_weight_name(lm: PreTrainedModel, layer: int) -> str:
    """The full parameter name of a layer's MLP output weight, or of all its experts'.

    Raises:
        ValueError: if the layer does not exist.
    """
    own = "down_proj" if is_experts(output_map(lm, layer)) else "weight"
    layout = layout_of(lm)
    return f"{layout.blocks}.{layer}.{layout.output_of(blocks(lm)[layer])}.{own}"


def block_parameter_names(lm: PreTrainedModel, layer: int) -> list[str]:
    """Full names of all parameters of a layer's block.

    Raises:
        ValueError: if the layer does not exist.
    """
    output_map(lm, layer)
    names = (name for name, _ in blocks(lm)[layer].named_parameters())
    return [f"{layout_of(lm).blocks}.{layer}.{name}" for name in names]


def layer_of(lm: PreTrainedModel, name: str) -> int:
    """The layer of a parameter inside a block; 0 for one outside."""
    prefix = layout_of(lm).blocks + "."
    return int(name.removeprefix(prefix).split(".")[0]) if name.startswith(prefix) else 0


def parameter_of(name: str) -> str:
    """The parameter of a weight: of ``NAME[e]``, the slice of expert e, it is ``NAME``."""
    return SLICE.sub("", name)


def weight_of(lm: PreTrainedModel, name: str) -> Tensor:
    """A parameter; of ``NAME[e]`` a view of expert e's slice."""
    found = SLICE.search(name)
    weight = lm.get_parameter(parameter_of(name))
    return weight if found is None else weight[int(found[1])]


def experts_in(lm: PreTrainedModel, name: str) -> int:
    """Number of experts whose slices a parameter holds; 0 for any other, and for a slice."""
    return 0 if SLICE.search(name) else count_experts(lm.get_submodule(name.rpartition(".")[0]))


def oriented(lm: PreTrainedModel, name: str, weight: Tensor | None = None) -> Tensor:
    """A view of a weight as ``(out, in)``, however the module stores it.

    A bias becomes ``(out, 1)``.

    Args:
        lm: the model.
        name: of the parameter, or ``NAME[e]`` for an expert's slice.
        weight: values stored the same way, to view instead.
    """
    weight = weight_of(lm, name) if weight is None else weight
    if weight.ndim == 1:
        return weight[:, None]
    owner = lm.get_submodule(name.rpartition(".")[0])
    transposed = isinstance(owner, Conv1D) or (is_experts(owner) and owner.is_transposed)
    return weight.T if transposed else weight
