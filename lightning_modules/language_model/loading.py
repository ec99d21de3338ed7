"""A causal language model and its tokenizer, from a folder or the hub, ready to edit."""

import hashlib
import json
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Literal
from weakref import finalize

import torch
from lightning.pytorch.utilities import rank_zero_info
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from .device_map import Room, all_room, plan, told
from .experts import require_stacked_experts
from .gguf_files import gguf_file, load_gguf, read_config, read_tokenizer
from .hub_models import look_up_model
from .intact import intact
from .layout import names_experts, require_decoder
from .split import weights_of
from .tokens import fast

EMBEDDED = Path(__file__).parents[2] / "data_modules" / "embedded" / "lm"
SAMPLES_PER_WEIGHT = 4096
FETCHED = {"models/smollm2-135m": "make smollm2"}  # folders that a command creates
Dtype = Literal["float32", "bfloat16", "float16"]


def load(
    name: str,
    dtype: Dtype = "float32",
    trust_remote_code: bool = False,
    device_map: str | None = None,
    room: Room | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A frozen model in eval mode, and its tokenizer.

    Args:
        name: ``embedded``, a folder, a GGUF file, or a model's name on the hub.
        dtype: of the weights in memory.
        trust_remote_code: run code shipped with the model.
        device_map: where its layers lie (``device_map.plan``); if null, all on the CPU.
        room: the devices of this process; all by default.

    Raises:
        FileNotFoundError: if there is no such folder and no such model on the hub.
        ValueError: if the family is unsupported, a GGUF cannot be read or is to be split, the map
            does not fit, the tokenizer is not a fast one, or a weight is not finite.
    """
    config, tokenizer = load_unweighted(name, trust_remote_code)
    with intact(name):
        file = gguf_file(name)
        if device_map is not None:
            if file is not None:
                raise ValueError(
                    f"--model.device_map cannot split {name!r}: a GGUF file is read whole; export "
                    "it to a folder first (--export lm), and split that"
                )
            lm = load_split(
                name, config, getattr(torch, dtype), trust_remote_code, device_map, room
            )
        elif file is None:
            lm = load_pretrained(name, config, getattr(torch, dtype), trust_remote_code)
        else:
            lm = load_gguf(file, getattr(torch, dtype))
    for parameter_name, parameter in weights_of(lm):
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"weight {parameter_name!r} of {name!r} holds NaN or infinity before any edit; "
                "get an intact copy of the model"
            )
    return lm.requires_grad_(False).eval(), tokenizer


def load_unweighted(
    name: str, trust_remote_code: bool = False
) -> tuple[PretrainedConfig, PreTrainedTokenizerFast]:
    """A model's configuration and its tokenizer, without its weights.

    Raises:
        FileNotFoundError: if there is no such folder and no such model on the hub.
        ValueError: if the model is an adapter, its files are damaged, the family is unsupported, a
            GGUF cannot be read, or the tokenizer is not a fast one.
    """
    if name in FETCHED and not Path(name).is_dir():
        raise FileNotFoundError(f"no language model {name!r} yet; fetch it with: {FETCHED[name]}")
    with intact(name):
        file = gguf_file(name)
        if file is not None:
            return read_config(file), fast(read_tokenizer(file), name)
        source = EMBEDDED if name == "embedded" else name
        try:
            look_up_model(str(source))
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
            require_decoder(config)
            if names_experts(config):
                require_stacked_experts(without_weights(config, trust_remote_code))
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        except OSError as error:
            raise unreachable(name) from error
        return config, fast(tokenizer, name)


def require_own_dtype(precision: str) -> None:
    """Refuses a Trainer precision that would override the model's own.

    Raises:
        ValueError: if it would.
    """
    if precision != "32-true":
        raise ValueError(
            f"--trainer.precision {precision} does not apply here; leave it out, and choose the "
            "model's precision with --model.dtype (float32, bfloat16 or float16)"
        )


def unreachable(name: str) -> FileNotFoundError:
    """The error for a model that does not exist."""
    return FileNotFoundError(
        f"no language model {name!r}: it is neither a folder with config.json and weights nor "
        "a reachable model on the hub; check the spelling, or give a local folder"
    )


def _auto_class(config: PretrainedConfig) -> Any:
    """The class that loads a model; one that also reads images is loaded whole, its text edited."""
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if sees and not causal else AutoModelForCausalLM


def without_weights(
    config: PretrainedConfig, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A model whose parameters have shapes but no values."""
    with torch.device("meta"):
        return _auto_class(config).from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )


def load_split(
    name: str,
    config: PretrainedConfig,
    dtype: torch.dtype,
    trust_remote_code: bool,
    device_map: str,
    room: Room | None,
) -> PreTrainedModel:
    """A model whose layers lie where a map puts them, by accelerate; says where, before loading."""
    empty = without_weights(config, trust_remote_code, dtype)
    room = room or all_room()
    places = plan(empty, device_map, room)
    rank_zero_info("\n".join(told(empty, places, room)))
    folder = mkdtemp(prefix="keel-offloaded-")  # for weights on disk that no safetensors holds
    lm = load_pretrained(
        name, config, dtype, trust_remote_code, device_map=places, offload_folder=folder
    )
    finalize(lm, rmtree, folder, ignore_errors=True)
    return lm


def load_pretrained(
    name: str, config: PretrainedConfig, dtype: torch.dtype, trust_remote_code: bool, **options: Any
) -> PreTrainedModel:
    """A model from a folder in Hugging Face's format, or from the hub.

    ``options`` go to ``from_pretrained``.

    Raises:
        FileNotFoundError: if there is no such folder and no such model on the hub.
    """
    source = EMBEDDED if name == "embedded" else name
    try:
        return _auto_class(config).from_pretrained(
            source, dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
    except OSError as error:
        raise unreachable(name) from error


def is_embedded(name: str) -> bool:
    """Whether a model's name stands for the embedded model."""
    return name == "embedded" or Path(name).expanduser().resolve() == EMBEDDED


def artefact_file(
    kind: str, path: str | None, lm_name: str, model: str, suffix: str = ".safetensors"
) -> Path:
    """The file of an artefact computed from one model and valid only for it.

    Its name ends in the model's digest, so any spelling of the model's path finds it.

    Args:
        kind: of artefact, such as ``key_statistics``.
        path: a file given by the user, which takes precedence.
        lm_name: the model's name.
        model: the model's fingerprint.
        suffix: of the file's name.
    """
    if path is not None:
        return Path(path)
    digest, changed, how = model.partition("-")
    folder = Path(lm_name).expanduser()
    if not changed and is_embedded(lm_name):
        return EMBEDDED / f"{kind}{suffix}"
    made = Path("cache") / kind
    ending = f"{digest[:12]}{changed}{how}{suffix}"
    name = folder.resolve().name if folder.is_dir() else lm_name.strip("/").replace("/", "--")
    own = made / f"{name}-{ending}"
    return own if own.is_file() else next(iter(sorted(made.glob(f"*-{ending}"))), own)


def fingerprint(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of the model's weights (a strided sample of each) and of its vocabulary.

    It includes the first position if that is not 0 (``positions.begin_at``).
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in weights_of(lm):
        flat = parameter.detach().flatten()
        stride = len(flat) // SAMPLES_PER_WEIGHT | 1  # odd: an even one can meet a single column
        sample = flat[::stride].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    first = getattr(lm, "first_position", 0)
    return digest.hexdigest() + (f"-first-position-{first}" if first else "")
