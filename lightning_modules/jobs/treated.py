"""A copy of an edited model after what happens to models later."""

from collections.abc import Sequence

from ..editing.editor import Editor
from ..editing.watched import WatchedModel
from ..language_model.split import is_split
from ..language_model.treatments import ROUNDINGS, round_weights, train_on

TREATMENTS = ("none", *ROUNDINGS, "lora", "chat")


class TreatedModel(WatchedModel):
    """Judged and watched like the model that it is a copy of."""

    def layers_under_edit(self) -> list[int]:
        """Any layer may have changed."""
        return [0]


def treated(editor: Editor, treatment: str, texts: Sequence[str], steps: int) -> TreatedModel:
    """A copy of an editor's current model, treated.

    Args:
        editor: with its model.
        treatment: rounding of the weights (``bfloat16``, ``int8``, ``int4``), ``lora``: training on
            texts, ``chat``: prompts in the chat template, or ``none``.
        texts: to train on.
        steps: of the training.

    Raises:
        ValueError: if the treatment is unknown, the tokenizer has no chat template, or the model is
            split or quantised.
    """
    if treatment not in TREATMENTS:
        raise ValueError(f"treatment {treatment!r} is unknown; choose from {list(TREATMENTS)}")
    if is_split(editor.lm) or editor.quantized is not None:
        raise ValueError(
            "a model that is split by --model.device_map or kept in --model.quantized has no "
            "treated copy: export it (--export lm), and judge the treated export"
        )
    copy = TreatedModel(
        lm=editor.lm_name,
        dtype=editor.dtype_name,
        trust_remote_code=editor.trust_remote_code,
        first_position=editor.first_position,
        separator=editor.separator,
        chat="judge" if treatment == "chat" else editor.chat,
    )
    copy.configure_model()
    copy.to(editor.device)
    copy.lm.load_state_dict(editor.lm.state_dict())
    if treatment in ROUNDINGS:
        round_weights(copy.lm, treatment)
    elif treatment == "lora":
        copy.lm = train_on(copy.lm, copy.tokenizer, texts, steps)
    return copy
