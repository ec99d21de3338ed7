"""Models in GGUF, llama.cpp's format; quantised weights are dequantised on loading."""

from collections import Counter
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from gguf import GGUFReader, ReaderTensor, dequantize
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .layout import names_experts, require_decoder

MAGIC = b"GGUF"
PLAIN = ("F32", "F16", "BF16")
WEIGHTS = ("*.safetensors", "*.bin")


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a model's name refers to; None if there is none.

    A file must be a GGUF; a folder refers to the one in it, unless it holds safetensors or PyTorch
    weights.

    Raises:
        FileNotFoundError: if the name ends in ``.gguf`` and there is no such file.
        ValueError: if the folder holds several.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == ".gguf":
        raise FileNotFoundError(f"there is no GGUF file {name!r}; check the spelling")
    if any(file for pattern in WEIGHTS for file in path.glob(pattern)):
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(
            f"{name!r} holds {len(files)} GGUF files ({', '.join(file.name for file in files)}); "
            f"name one of them, such as --model.lm {files[0]}"
        )
    return files[0] if files else None


def load_gguf(file: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The dequantised model.

    The config's ``dequantised_from`` names the file and the types that the weights come from, also
    in every saved copy.

    Args:
        file: a GGUF file that holds a whole model.
        dtype: of the weights in memory.

    Raises:
        ValueError: if the file is not a GGUF, is damaged, holds a family or a weight type that
            cannot be read, or lacks weights.
    """
    tensors = stored_tensors(file)
    config = read_config(file)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=config,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, in one sentence
    )
    lm, found = loaded  # the annotation says otherwise
    wrong = sorted(found["missing_keys"]) + [name for name, *_ in found["mismatched_keys"]]
    if wrong:
        raise ValueError(
            f"{file} has no weight of the right shape for {len(wrong)} parameters of its model, "
            f"such as {wrong[0]!r}; if it is one part of several, merge them first "
            "(llama-gguf-split --merge)"
        )
    types = Counter(tensor.tensor_type.name for tensor in tensors)
    if types.keys() - set(PLAIN):
        counted = ", ".join(f"{count} {kind}" for kind, count in types.most_common())
        lm.config.dequantised_from = f"{file.name} (weights: {counted})"
    return cast(PreTrainedModel, lm)


def stored_tensors(file: Path) -> list[ReaderTensor]:
    """The tensors in a GGUF file, mapped into memory, each of a type that can be dequantised.

    Raises:
        ValueError: if the file is not a GGUF, is damaged, or holds a tensor of another type.
    """
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(
                f"{file} is not a GGUF file; give one, or a folder with config.json and weights"
            )
    try:
        tensors = GGUFReader(file).tensors
    except (ArithmeticError, LookupError, MemoryError, ValueError) as error:
        raise ValueError(
            f"{file} is truncated, damaged or of a newer format ({error}); get an intact copy"
        ) from error
    for kind, tensor in {tensor.tensor_type: tensor for tensor in tensors}.items():
        try:
            dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], kind)
        except NotImplementedError as error:
            raise ValueError(
                f"{file} holds {tensor.name!r} as {kind.name}, which cannot be dequantised; get "
                "the model in another type, such as Q8_0 or F16"
            ) from error
    return tensors


def read_config(file: Path) -> PretrainedConfig:
    """The config from the file's metadata.

    Raises:
        ValueError: if the file is damaged, or its family cannot be read from GGUF or cannot be
            edited.
    """
    stored_tensors(file)
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"transformers {transformers.__version__} cannot read the model in {file} ({error}); "
            "give a folder with the same model's config.json and safetensors instead"
        ) from error
    require_decoder(config)
    if names_experts(config):
        raise ValueError(
            f"{file} holds a mixture of experts ({config.model_type!r}), which is read only from a "
            "folder with config.json and safetensors: give that"
        )
    return cast(PretrainedConfig, config)


def read_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in an intact file.

    Raises:
        ValueError: if there is no readable one.
    """
    try:
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} holds no tokenizer that transformers {transformers.__version__} can read "
            f"({error}); give the model's folder with a tokenizer.json instead"
        ) from error
