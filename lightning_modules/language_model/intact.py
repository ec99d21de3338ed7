"""Checks that a language model's files are intact, with a one-sentence error if not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel


@contextmanager
def intact(name: str) -> Iterator[None]:
    """Inside, a model's files are read; damage becomes one sentence.

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
        ValueError: if it has one.
    """
    if getattr(lm, "peft_config", None):
        raise ValueError(unmerged(type(lm).__name__))


def unmerged(name: str) -> str:
    """The error message for an adapter in place of a model."""
    return (
        f"{name!r} holds an adapter, not a whole model; merge it into its model first "
        "(peft: merge_and_unload(), then save_pretrained) and edit the result"
    )
