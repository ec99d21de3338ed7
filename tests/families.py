"""A tiny random model of any family that transformers knows, and what editing does with it."""

import inspect
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.expert_edits import by_expert
from lightning_modules.language_model.experts import EXPERTS, is_experts, keys_at
from lightning_modules.language_model.hooks import moving
from lightning_modules.language_model.inspection import Layout
from lightning_modules.language_model.layout import (
    layout_of,
    oriented,
    output_map,
    output_weight_name,
    require_decoder,
)
from lightning_modules.language_model.lower_states import LowerStates
from lightning_modules.language_model.passes import recording
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.self_test import difference, self_test
from lightning_modules.language_model.shortcuts import shortcuts_of
from lightning_modules.language_model.suffixes import record_suffixes, suffix_logits
from lightning_modules.language_model.tokens import Span, collate
from tests.tiny import EDITED_LAYER, LAYERS, VOCABULARY, WINDOW

TEXTS = [
    [7, 31, 90, 12, 55, 260, 301, 18, 77, 410, 5],
    [44, 402, 9, 27, 66, 3, 350, 128, 211, 33, 8, 97, 150, 61],
    [391, 13, 222, 47, 60, 181],
    [10, 275, 91, 14, 333, 29, 100, 86, 2],
]
SUBJECTS = [0, 7, 5, 3]  # the first token, beyond a window, the last token, an ordinary place
PLACES = [(row, at) for row, s in enumerate(SUBJECTS) for at in range(len(TEXTS[row]) - s)]
ROWS, COLUMNS = torch.tensor(PLACES).T
ALL = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WRAPPERS = (  # read images too; their text part is edited
    *("aya_vision", "cohere2_vision", "deepseek_vl", "idefics2", "idefics3", "internvl", "lfm2_vl"),
    *("llava", "llava_next", "llava_onevision", "mistral3", "ovis2", "paligemma", "qwen2_vl"),
    *("qwen2_5_vl", "qwen3_vl", "smolvlm", "video_llava", "vipllava"),
)
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(
        (
            "hidden_size",
            "lru_width",
            "d_model",
            "n_embd",
            "emb_dim",
            "embedding_size",
            "word_embed_proj_dim",
        ),
        32,
    ),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "dff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "global_head_dim", "v_head_dim", "dim_head"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 4),
    **dict.fromkeys(("hidden_size_per_layer_input", "adapter_rank", "dim_model_base"), 16),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "state_size", "mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("mamba_d_ssm", "mamba_intermediate"), 64),
    **dict.fromkeys(("mamba_n_heads",), 8),
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 8,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 8),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("moe_num_experts",), 8),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"), 16),
    "num_kv_shared_layers": 0,
    "pad_token": 0,
}
PARTED = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
MAY_BE_NONE = {
    *("pad_token_id", "bos_token_id", "eos_token_id", "head_dim", "num_key_value_heads"),
    "num_experts_per_tok",
}
LATENT = (  # attention over latent states, with as many keys as queries
    *("axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32"),
    *("dots3_note", "dots3_note_text", "glm4_moe_lite", "glm_moe_dsa", "kimi_linear"),
)
OF_FAMILY: dict[str, dict[str, Any]] = {
    "granite": {"residual_multiplier": 0.3, "logits_scaling": 2.0, "embedding_multiplier": 3.0},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": WINDOW},
    "minicpm3": {"num_key_value_heads": 4},
    "youtu": {"num_key_value_heads": 4},
    **{family: {"num_key_value_heads": 4} for family in LATENT},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "zaya": {"num_experts_per_tok": 1},
    "qwen2_vl_text": {"rope_parameters": PARTED},
    "qwen2_5_vl_text": {"rope_parameters": PARTED},
    "glm4v_text": {"rope_parameters": PARTED},
    "xlstm": {"chunk_size": 64},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


def shrunk(config: PretrainedConfig) -> dict[str, Any]:
    """Arguments that make a config of the same kind small, by the names of its fields."""
    accepted, usual = inspect.signature(type(config)).parameters, config.to_dict()
    sizes = {
        name: size
        for name, size in SIZES.items()
        if name in accepted and (usual.get(name) is not None or name in MAY_BE_NONE)
    }
    if "is_decoder" in accepted:
        sizes["is_decoder"] = True
    kinds = list(dict.fromkeys(usual.get("layer_types") or ()))
    if kinds and "layer_types" in accepted:
        sizes["layer_types"] = [kinds[at % len(kinds)] for at in range(LAYERS)]
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            sizes[name] = type(part)(**shrunk(part))
    return sizes | OF_FAMILY.get(config.model_type, {})


def _model(family: str) -> PreTrainedModel:
    config = CONFIG_MAPPING[family](**shrunk(CONFIG_MAPPING[family]()))
    causal = family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    kind = AutoModelForCausalLM if causal else AutoModelForImageTextToText
    return kind.from_config(config)


@torch.no_grad()
def tiny_of(family: str, seed: int = 0) -> PreTrainedModel:
    """A frozen random model in eval mode; no parameter is left at zero or one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = _model(family)
        for parameter in lm.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return lm.requires_grad_(False).eval()


class Verdict(NamedTuple):
    """What editing does with a family.

    Attributes:
        family: the model type.
        output: the edited map, from the root; empty where the family is refused.
        way: how a value reaches the residual stream.
        search: how values are searched.
        watching: where watched text starts.
        reason: of a refusal; empty where the family is edited.
    """

    family: str
    output: str = ""
    way: str = ""
    search: str = ""
    watching: str = ""
    reason: str = ""


def verdict(family: str) -> Verdict:
    """Edits, searches and watches a tiny model of the family, or tells why not.

    Raises:
        AssertionError: if the family is accepted and comes out wrong.
    """
    try:
        require_decoder(_usual_config(family))
        lm = _tiny_or_unbuilt(family)
        self_test(lm, [EDITED_LAYER])
        _require_numbers(lm)
        require_key_maps_to_its_value(lm)
    except (ValueError, UnbuiltError) as error:
        return Verdict(family, reason=str(error).splitlines()[0])
    require_search_equals_whole_passes(lm)
    require_watching_equals_whole_passes(lm)
    layout, shortcuts = layout_of(lm), shortcuts_of(lm)
    return Verdict(
        family,
        f"{layout.blocks}.*.{layout.experts or layout.output}",
        _way(layout),
        "whole passes"
        if not shortcuts.suffix
        else "from the subject on" + (", own masks" if not shortcuts.masks else ""),
        "from the edited layer" if shortcuts.lower else "all layers",
    )


class UnbuiltError(Exception):
    """A small config of the family is no model."""


def _usual_config(family: str) -> PretrainedConfig:
    try:
        return CONFIG_MAPPING[family]()
    except Exception as error:  # of many kinds
        raise UnbuiltError("not tested: its config has no defaults") from error


def _tiny_or_unbuilt(family: str) -> PreTrainedModel:
    with suppress(Exception), torch.device("meta"):  # large where experts are not shrunk
        lm = _model(family)
        experts = any(EXPERTS.search(name) for name, _ in lm.named_modules())
        if experts and not any(map(is_experts, lm.modules())):
            return lm  # inspection refuses it before it computes
    try:
        return tiny_of(family)
    except Exception as error:  # of many kinds
        why = " ".join(str(error).split())[:120]
        raise UnbuiltError(f"not tested: no small model can be built ({why})") from error


def _require_numbers(lm: PreTrainedModel) -> None:
    if not _scores(lm).isfinite().all():
        raise UnbuiltError("not tested: a small random model gives NaN")


def _way(layout: Layout) -> str:
    if layout.norm_behind:
        return f"through {layout.norm_behind}"
    if layout.scale is None:
        return "in another way"
    return "added" if layout.scale == 1 else f"added, times {layout.scale:.3g}"


def near(ours: Tensor, right: Tensor, what: str, by: float = 1e-4) -> None:
    """Asserts that two tensors are alike, relative to the largest right number."""
    error = float((ours - right).detach().abs().max() / right.detach().abs().max())
    assert error <= by, f"{what} differs by {error:.2g}"


@torch.no_grad()
def require_key_maps_to_its_value(lm: PreTrainedModel) -> None:
    """A ROME-like edit of one weight, seen in a whole pass."""
    text, subject = TEXTS[1], SUBJECTS[1]
    module = output_map(lm, EDITED_LAYER)

    def seen() -> tuple[Tensor, Tensor, Tensor]:
        with recording({"map": module}) as found:
            logits = lm(torch.tensor([text]), use_cache=False).logits
        key = keys_at(found["map"][0], torch.tensor([subject]))[0]
        return key, found["map"][1].reshape(len(text), -1)[subject], logits

    key, value, logits = seen()
    residual = torch.linspace(-1, 1, len(value))
    if not key.any():
        raise UnbuiltError("not tested: the keys of a small random model are zero")
    right = key.double() / key.double().square().sum()  # keys may be tiny
    whole = Update(output_weight_name(lm, EDITED_LAYER), residual.double()[:, None], right[None])
    for update in by_expert(lm, [whole]):
        oriented(lm, update.weight).add_(update.dense())
    after, moved, edited = seen()
    for update in by_expert(lm, [whole]):
        oriented(lm, update.weight).sub_(update.dense())
    wanted = torch.cat([key, value + residual])
    near(torch.cat([after, moved]), wanted, "the value of the edited key")
    assert difference(edited[0, subject:], logits[0, subject:]) > 1e-3


def require_search_equals_whole_passes(lm: PreTrainedModel) -> None:
    """Logits and gradients of a moved value: padded texts by suffix, and each alone by a hook."""
    change = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    suffixes = record_suffixes(lm, EDITED_LAYER, collate(TEXTS, lm.device), torch.tensor(SUBJECTS))
    ours = suffix_logits(lm, EDITED_LAYER, suffixes, change, ROWS, COLUMNS)
    right = torch.cat(
        [
            _alone(lm, text, subject, change[row])
            for row, (text, subject) in enumerate(zip(TEXTS, SUBJECTS, strict=True))
        ]
    )
    near(ours, right, "the logits of a moved value")
    weights = torch.randn(right.shape, generator=torch.Generator().manual_seed(1))
    mine, true = (torch.autograd.grad((x * weights).sum(), change)[0] for x in (ours, right))
    near(mine, true, "the gradient of a moved value", 1e-3)


def _alone(lm: PreTrainedModel, text: list[int], subject: int, change: Tensor) -> Tensor:
    with moving(output_map(lm, EDITED_LAYER), change[None], torch.tensor([subject])):
        return lm(torch.tensor([text]), use_cache=False).logits[0, subject:]


@torch.no_grad()
def require_watching_equals_whole_passes(lm: PreTrainedModel) -> None:
    """Scores of texts that come again after an edit."""
    spans, lower = [Span(text, 1) for text in TEXTS], LowerStates(EDITED_LAYER, 1e9)
    near(score(lm, spans, lower=lower).log_prob, _scores(lm), "the score of a text")
    weight = lm.get_parameter(output_weight_name(lm, EDITED_LAYER))
    original = weight.clone()
    weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    again, right = score(lm, spans, lower=lower).log_prob, _scores(lm)
    weight.copy_(original)
    near(again, right, "the score of a text after an edit")
    assert bool(lower.kept) == shortcuts_of(lm).lower


def _scores(lm: PreTrainedModel) -> Tensor:
    """Each text alone, by the model's own forward pass."""
    found = []
    for text in TEXTS:
        logits = lm(torch.tensor([text]), use_cache=False).logits[0, :-1].double()
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(text[1:])[:, None]).sum())
    return torch.stack(found)
