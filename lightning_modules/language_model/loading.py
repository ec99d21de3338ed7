"""A causal language model and its tokenizer, from a folder or the hub, ready to be edited."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from .layout import layout_of
from .tokens import fast

EMBEDDED = Path(__file__).parents[2] / "data_modules" / "embedded" / "lm"
SAMPLES_PER_WEIGHT = 4096
Dtype = Literal["float32", "bfloat16", "float16"]


def load(
    name: str, dtype: Dtype = "float32", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A frozen model in eval mode, and its tokenizer.

    Args:
        name: ``embedded``, a folder, or a model's name on the hub.
        dtype: of the weights in memory.
        trust_remote_code: run code that comes with the model.

    Raises:
        FileNotFoundError: if there is no such folder and no such model can be reached.
        ValueError: if the family is unsupported, the tokenizer is not a fast one, or a weight is
            not finite.
    """
    source = EMBEDDED if name == "embedded" else name
    try:
        layout_of(AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        lm = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    except OSError as error:
        raise FileNotFoundError(
            f"no language model {name!r}: it is neither a folder with config.json and weights nor "
            "a model of the hub that can be reached; check the spelling, or give a local folder"
        ) from error
    for parameter_name, parameter in lm.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"weight {parameter_name!r} of {name!r} holds NaN or infinity before any edit; "
                "get an intact copy of the model"
            )
    return lm.requires_grad_(False).eval(), fast(tokenizer, name)


def artefact_file(
    kind: str, path: str | None, lm_name: str, model: str, suffix: str = ".safetensors"
) -> Path:
    """Where something that was made from a model, and fits no other, is kept.

    Args:
        kind: what it is, such as ``key_statistics``.
        path: a file given by the user, which wins.
        lm_name: the model's name.
        model: the model's fingerprint.
        suffix: of the file's name.
    """
    if path is not None:
        return Path(path)
    digest, changed, how = model.partition("-")
    if lm_name == "embedded" and not changed:
        return EMBEDDED / f"{kind}{suffix}"
    name = lm_name.strip("/").replace("/", "--")
    return Path("cache") / kind / f"{name}-{digest[:12]}{changed}{how}{suffix}"


def fingerprint(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of the model's weights (a strided sample of each) and of its vocabulary.

    A model whose texts begin at another position than 0 (``positions.begin_at``) says so in it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in lm.named_parameters():
        flat = parameter.detach().flatten()
        stride = len(flat) // SAMPLES_PER_WEIGHT | 1  # odd: an even one can meet a single column
        sample = flat[::stride].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    first = getattr(lm, "first_position", 0)
    return digest.hexdigest() + (f"-first-position-{first}" if first else "")
