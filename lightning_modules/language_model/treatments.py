"""What happens to a model after it was edited: rounding of its weights, and further training."""

import math
from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize, quantize
from lightning.pytorch.utilities.seed import isolate_rng
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from .layout import blocks, oriented

ROUNDINGS = {
    "bfloat16": GGMLQuantizationType.BF16,
    "int8": GGMLQuantizationType.Q8_0,
    "int4": GGMLQuantizationType.Q4_1,
}


def round_weights(lm: PreTrainedModel, kind: str) -> None:
    """Rounds every matrix of the blocks as GGUF's quantised types keep it, in place.

    ``int8`` (Q8_0) has one scale per 32 weights of a row, ``int4`` (Q4_1) a scale and an offset.

    Args:
        lm: the model.
        kind: a key of ``ROUNDINGS``.

    Raises:
        ValueError: if the kind is unknown, or no matrix has rows of whole groups.
    """
    if kind not in ROUNDINGS:
        raise ValueError(f"weights cannot be rounded to {kind!r}; choose from {sorted(ROUNDINGS)}")
    group, _ = GGML_QUANT_SIZES[ROUNDINGS[kind]]
    inside = {id(weight) for block in blocks(lm) for weight in block.parameters()}
    rounded = 0
    for name, weight in lm.named_parameters():
        if weight.ndim == 2 and id(weight) in inside and oriented(lm, name).shape[1] % group == 0:
            rows = oriented(lm, name)
            values = np.ascontiguousarray(rows.detach().float().cpu().numpy())
            kept = dequantize(quantize(values, ROUNDINGS[kind]), ROUNDINGS[kind])
            rows.data.copy_(torch.from_numpy(kept))
            rounded += 1
    if not rounded:
        raise ValueError(f"no matrix of the model has rows of whole groups of {group} weights")


def train_on(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    steps: int,
    rank: int = 8,
    learning_rate: float = 2e-4,
    longest: int = 128,
) -> PreTrainedModel:
    """The model after LoRA on all its linear maps, one text a step, merged into its weights.

    Args:
        lm: the model; its weights change.
        tokenizer: the model's.
        texts: to continue, over and over.
        steps: of AdamW.
        rank: of the adapters; their scale is 2.
        learning_rate: AdamW's.
        longest: tokens of a text that are read.

    Raises:
        FloatingPointError: if a loss is not finite.
    """
    from peft import LoraConfig, get_peft_model  # here, as it takes long

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in lm.modules()),
    )
    with isolate_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(lm, config)
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(trained, learning_rate)
    for text in islice(cycle(texts), steps):
        read = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
        tokens = read["input_ids"].to(lm.device)
        loss = adapted(input_ids=tokens, labels=tokens).loss
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss of the further training is {loss.item()}")
        adam.zero_grad()
        loss.backward()
        adam.step()
    return adapted.merge_and_unload().requires_grad_(False)  # type: ignore[return-value]
