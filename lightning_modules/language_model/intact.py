"""A language model whose files are whole: what is wrong with the others is said in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel


@contextmanager
def intact(name: str) -> Iterator[None]:
    """Inside, a model's files are read.

    Raises:
        ValueError: if the model is an adapter, or its files are damaged.
    """
    if Path(name, "adapter_config.json").is_file():
        raise ValueError(unmerged(name))
    try:
        yield
    except (MemoryError, OSError, ValueError):
        raise
    except Exception as error:  # tokenizers and transformers raise no narrower kind
        why = " ".join(str(error).split())
        raise ValueError(
            f"the files of {name!r} cannot be read ({type(error).__name__}: {why:.200}); get an "
            "intact copy of the model"
        ) from error


def require_merged(lm: PreTrainedModel) -> None:
    """Refuses a model in memory that has an adapter.

    Raises:
        ValueError: if one stands between the model and its weights.
    """
    if getattr(lm, "peft_config", None):
        raise ValueError(unmerged(type(lm).__name__))


def unmerged(name: str) -> str:
    """What is said of an adapter in the place of a model."""
    return (
        f"{name!r} holds an adapter, not a whole model; merge it into its model first "
        "(peft: merge_and_unload(), then save_pretrained) and edit the result"
    )
