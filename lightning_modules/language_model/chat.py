"""The chat template around a prompt."""

from typing import Any, Literal, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, Frame, TaskItem

from .joining import separator

ChatUse = bool | Literal["off", "edit", "judge", "both", "auto"]

PROMPT, ANSWER = "The capital of Atlantis is", "Poseidonis"  # a template leaves them unchanged
# templates without these ignore them: a fixed date, as today's would change a text overnight, and
# no reasoning before an answer
SETTINGS: dict[str, Any] = {"date_string": "1 January 2025", "enable_thinking": False}


class Frames(NamedTuple):
    """The text around prompts.

    Attributes:
        edited: for editing.
        judged: for judging edits, and in tasks.
    """

    edited: Frame = Frame()
    judged: Frame = Frame()


def frames(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    chat: ChatUse = "off",
    between: str | None = None,
    end: bool | str = False,
) -> Frames:
    """The chat template, or nothing, around prompts for editing and for judging.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        name: the model's, for errors.
        chat: which of the two use the template; true for both, ``auto`` for both if the tokenizer
            has one.
        between: text between prompt and answer; overrides the template's.
        end: ends an edit's target; if true, the template's end of turn, or EOS if it has none.

    Raises:
        ValueError: if the template is missing or unusable, the target's end is not a single token,
            or one of their tokens has no embedding.
    """
    if chat == "auto":
        chat = tokenizer.chat_template is not None
    bare = Frame(separator=between, end=tokenizer.eos_token or "")
    spoken = bare if chat in ("off", False) else chat_frame(tokenizer, name)
    if between is not None:
        spoken = spoken._replace(separator=between)
    edited = spoken if chat in ("edit", "both", True) else bare
    judged = spoken if chat in ("judge", "both", True) else bare
    ending = edited.end if end is True else end or ""
    if end and ending.strip() not in tokenizer.get_vocab():
        raise ValueError(
            f"end_of_target is {ending!r}, which is not one token of {name!r}; name a token of it, "
            "such as its end of a turn"
        )
    found = Frames(edited._replace(end=ending), judged)
    if beyond := unknown(lm, tokenizer, spoken.around("") + ending):
        raise ValueError(
            f"{name!r} has no embedding for the token {beyond!r} of its chat template or of "
            "end_of_target; leave --model.chat off, or take the model that was trained with it"
        )
    return found


def unknown(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str) -> str | None:
    """The first token of a text that has no row in the model's embedding."""
    embedding: Any = lm.get_input_embeddings()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    beyond = [token for token in tokens if token >= embedding.num_embeddings]
    return str(tokenizer.convert_ids_to_tokens(beyond[0])) if beyond else None


def framed(request: EditRequest, frame: Frame) -> EditRequest:
    """The request with this frame around its prompts."""
    return request if request.frame == frame else request._replace(frame=frame)


def framed_item(item: TaskItem, frame: Frame) -> TaskItem:
    """A task's item as a chat model reads it; unchanged in a bare frame."""
    if not frame.before and not frame.after:
        return item
    context = frame.around(item.context)
    choices = [choice.strip() for choice in item.choices]
    joints = [
        separator(context, choice) if frame.separator is None else frame.separator
        for choice in choices
    ]
    joined = tuple(map(str.__add__, joints, choices))
    return item._replace(context=context, choices=joined)


def chat_frame(tokenizer: PreTrainedTokenizerFast, name: str) -> Frame:
    """The chat template's text around a user's prompt, up to the assistant's answer.

    Separator and end of turn are those around an answer that the template renders itself, if it
    renders the same text before it; otherwise the default rule applies, and EOS.

    Args:
        tokenizer: the model's.
        name: the model's, for the error.

    Raises:
        ValueError: if there is no template, or it does not contain the prompt unchanged.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {name!r} has no chat template; leave --model.chat off, or save the "
            "model with a chat_template.jinja"
        )
    asked = [{"role": "user", "content": PROMPT}]
    opening = _rendered(tokenizer, asked, add_generation_prompt=True)
    if opening.count(PROMPT) != 1:
        raise ValueError(
            f"the chat template of {name!r} does not contain a user's message exactly once and "
            "unchanged, so no subject can be located in it; leave --model.chat off"
        )
    before, _, after = opening.partition(PROMPT)
    whole = _rendered(tokenizer, [*asked, {"role": "assistant", "content": ANSWER}])
    between, answered, end = whole.removeprefix(opening).partition(ANSWER)
    if not whole.startswith(opening) or not answered or between.strip():
        return Frame(before, after, None, tokenizer.eos_token or "")
    return Frame(before, after, between, end.rstrip() or tokenizer.eos_token or "")


def _rendered(tokenizer: PreTrainedTokenizerFast, messages: list[Any], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options, **SETTINGS))
