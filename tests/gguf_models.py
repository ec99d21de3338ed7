"""Writes tiny models as GGUF files, as llama.cpp's converter does."""

import json
from pathlib import Path

import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quantize
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from tests.tiny import LAYERS, tiny_config, tiny_tokenizer

FAMILIES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "gpt2": MODEL_ARCH.GPT2}
SIZES = {  # a row of a quantised weight is whole blocks of 32
    "llama": {"intermediate_size": 64},
    "qwen2": {"intermediate_size": 64},
    "gpt2": {"n_inner": 128, "n_positions": 1024},  # the only ones that transformers assumes
}
CHAT = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


@torch.no_grad()
def quantisable_model(family: str = "llama") -> PreTrainedModel:
    """A random model whose rows are whole blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = AutoModelForCausalLM.from_config(tiny_config(family, **SIZES[family]))
    return lm.requires_grad_(False).eval()


def paired(weight: Tensor, heads: int) -> Tensor:
    """Rows of a Llama query or key map in llama.cpp's order, whose rotary pairs are neighbors."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    file: Path,
    lm: PreTrainedModel,
    kind: str = "Q8_0",
    tokenizer: PreTrainedTokenizerFast | None = None,
    leave_out: str = "nothing",
) -> Path:
    """Writes a model and its tokenizer; matrices in the given type, vectors in float32.

    Args:
        file: to write.
        lm: of a family above.
        kind: of the matrices, such as ``Q4_1`` or ``F32``.
        tokenizer: the tiny models' by default.
        leave_out: tensors whose name begins so are not written.
    """
    family, config = lm.config.model_type, lm.config
    writer = GGUFWriter(file, family)
    write_sizes(writer, lm)
    write_tokenizer(writer, tokenizer or tiny_tokenizer())
    names = get_tensor_name_map(FAMILIES[family], LAYERS)
    heads = {"attn_q": config.num_attention_heads}
    if family == "llama":
        heads["attn_k"] = config.num_key_value_heads
    turned = {f"{name}.weight" for name, module in lm.named_modules() if isinstance(module, Conv1D)}
    for name, parameter in lm.named_parameters():
        stored = names.get_name(name, (".weight", ".bias"))
        if stored.startswith(leave_out):
            continue
        weight = parameter.T if name in turned else parameter
        part = stored.split(".")[-2]
        if family == "llama" and part in heads:
            weight = paired(weight, heads[part])
        typed = GGMLQuantizationType[kind if weight.ndim > 1 else "F32"]
        if typed == GGMLQuantizationType.F32:
            writer.add_tensor(stored, weight.contiguous().numpy())
        else:
            data = quantize(weight.contiguous().numpy(), typed)
            writer.add_tensor(stored, data, raw_dtype=typed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_sizes(writer: GGUFWriter, lm: PreTrainedModel) -> None:
    """The metadata from which the config is made."""
    config = lm.config
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(next(iter(SIZES[config.model_type].values())))
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def write_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    """A byte-level vocabulary with its merges and a chat template."""
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHAT)
