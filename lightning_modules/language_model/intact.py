"""A language model whose files are whole: what is wrong with the others is said in a sentence."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .loading import Dtype, load


def load_intact(
    name: str, dtype: Dtype = "float32", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A frozen model in eval mode, and its tokenizer; arguments as of :func:`~.loading.load`.

    Raises:
        OSError: if there is no such model.
        ValueError: if it is an adapter, its files are damaged, or it cannot be edited.
    """
    if Path(name, "adapter_config.json").is_file():
        raise ValueError(unmerged(name))
    try:
        return load(name, dtype, trust_remote_code)
    except (MemoryError, OSError, ValueError):
        raise
    except Exception as error:  # tokenizers and transformers raise no narrower kind
        why = " ".join(str(error).split())
        raise ValueError(
            f"the files of {name!r} cannot be read ({type(error).__name__}: {why:.200}); get an "
            "intact copy of the model"
        ) from error


def unmerged(name: str) -> str:
    """What is said of an adapter in the place of a model."""
    return (
        f"{name!r} holds an adapter, not a whole model; merge it into its model first "
        "(peft: merge_and_unload(), then save_pretrained) and edit the result"
    )
