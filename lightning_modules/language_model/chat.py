"""How a chat model is spoken to: its template around a prompt."""

from typing import Any, Literal, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, Frame, TaskItem

from .joining import separator

ChatUse = bool | Literal["off", "edit", "judge", "both", "auto"]

PROMPT, ANSWER = "The capital of Atlantis is", "Poseidonis"  # what a template leaves as they are
# templates without these ignore them: no day's date, which would change a text overnight, no
# thoughts before an answer
SETTINGS: dict[str, Any] = {"date_string": "1 January 2025", "enable_thinking": False}


class Frames(NamedTuple):
    """What the model is given around prompts.

    Attributes:
        edited: where an edit is made.
        judged: where it is judged, and in tasks.
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
    """The chat template, or nothing, around prompts of edits and of judgements.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        name: the model's, for errors.
        chat: for which of the two the template is used; true for both, ``auto`` for both if the
            tokenizer has one.
        between: what stands between prompt and answer in any case.
        end: what ends an edit's target; if true, the template's end of a turn, or EOS without it.

    Raises:
        ValueError: if the template is missing or of no use, if the target's end is no single token,
            or if one of their tokens has no embedding.
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
    """The first token of a text that the tokenizer has and the model's embedding has not."""
    embedding: Any = lm.get_input_embeddings()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    beyond = [token for token in tokens if token >= embedding.num_embeddings]
    return str(tokenizer.convert_ids_to_tokens(beyond[0])) if beyond else None


def framed(request: EditRequest, frame: Frame) -> EditRequest:
    """The request with this around its prompts."""
    return request if request.frame == frame else request._replace(frame=frame)


def framed_item(item: TaskItem, frame: Frame) -> TaskItem:
    """A task's item as it is put to a chat model; in a bare frame as its authors put it."""
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
    """What the chat template puts around a user's prompt, up to where the assistant answers.

    The separator and the end of the turn are those of an answer that the template writes itself,
    where it writes one behind the same beginning; else they are left to the rule, and EOS.

    Args:
        tokenizer: the model's.
        name: the model's, for the error.

    Raises:
        ValueError: if there is no template, or it does not hold the prompt as it is.
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
            f"the chat template of {name!r} does not hold a user's message once and as it is, so "
            "no subject can be found in it; leave --model.chat off"
        )
    before, _, after = opening.partition(PROMPT)
    whole = _rendered(tokenizer, [*asked, {"role": "assistant", "content": ANSWER}])
    between, answered, end = whole.removeprefix(opening).partition(ANSWER)
    if not whole.startswith(opening) or not answered or between.strip():
        return Frame(before, after, None, tokenizer.eos_token or "")
    return Frame(before, after, between, end.rstrip() or tokenizer.eos_token or "")


def _rendered(tokenizer: PreTrainedTokenizerFast, messages: list[Any], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options, **SETTINGS))
