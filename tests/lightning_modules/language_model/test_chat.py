import pytest

from data_modules.records import EditRequest, Frame, TaskItem
from lightning_modules.language_model.chat import (
    Frames,
    chat_frame,
    framed,
    framed_item,
    frames,
)
from lightning_modules.language_model.tokens import edit_span
from tests.tiny import END, tiny_chat_tokenizer, tiny_metaspace_tokenizer, tiny_tokenizer

CHAT = Frame("<user>\n", f"{END}\n<assistant>\n", "", END)
REQUEST = EditRequest(0, "The river of {} is", "Rome", "Italy")


def with_template(template, tokenizer=None):
    tokenizer = tokenizer or tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_frame_is_what_the_template_writes_around_a_prompt():
    tokenizer = tiny_chat_tokenizer()
    assert chat_frame(tokenizer, "tiny") == CHAT
    message = [{"role": "user", "content": REQUEST.text}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert CHAT.around(REQUEST.text) == rendered


@pytest.mark.parametrize("bos", [False, True])
def test_tokens_of_an_edit_are_those_of_the_template_with_one_bos_and_the_answer(bos):
    tokenizer = tiny_chat_tokenizer(bos)
    request = framed(REQUEST, chat_frame(tokenizer, "tiny"))
    span = edit_span(tokenizer, request)
    messages = [
        {"role": "user", "content": REQUEST.text},
        {"role": "assistant", "content": "Italy"},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
    assert span.tokens == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(span.tokens[span.start :]) == f"Italy{END}"
    told = tokenizer.decode(span.tokens[: span.subject + 1])
    assert told == whole[: whole.index("Rome") + 4]


@pytest.mark.parametrize(
    ("template", "after", "separator", "end"),
    [
        ("[INST] {{ messages[0].content }} [/INST]{% if messages[1:] %} {{ messages[1].content }} "
         "</s>{% endif %}", " [/INST]", " ", " </s>"),
        ("{{ messages[0].content }}<A>{% if messages[1:] %}{{ messages[1].content }}{% endif %}",
         "<A>", "", "</s>"),
        ("{% if messages[1:] %}{{ raise_exception('no') if 0 }}other{% else %}"
         "{{ messages[0].content }}:{% endif %}", ":", None, "</s>"),
    ],
)  # fmt: skip
def test_separator_and_end_are_the_templates_own_where_it_tells_them(
    template, after, separator, end
):
    found = chat_frame(with_template(template, tiny_metaspace_tokenizer()), "tiny")
    assert found[1:] == (after, separator, end)


def test_no_template_is_refused():
    with pytest.raises(ValueError, match="tokenizer of 'tiny' has no chat template; leave"):
        chat_frame(tiny_tokenizer(), "tiny")


@pytest.mark.parametrize("template", ["{{ messages[0].content | upper }}", "nothing"])
def test_template_that_changes_the_prompt_is_refused(template):
    with pytest.raises(
        ValueError, match="does not contain a user's message exactly once and unchanged"
    ):
        chat_frame(with_template(template), "tiny")


@pytest.mark.parametrize("chat", ["off", False, "edit", "judge", "both", True, "auto"])
def test_template_is_used_where_it_is_wanted(tiny_gpt2, chat):
    edited, judged = frames(tiny_gpt2, tiny_chat_tokenizer(), "tiny", chat)
    assert bool(edited.before) == (chat in ("edit", "both", True, "auto"))
    assert bool(judged.before) == (chat in ("judge", "both", True, "auto"))
    assert edited.end == ""


def test_auto_does_without_a_template_where_there_is_none(tiny_gpt2):
    assert frames(tiny_gpt2, tiny_tokenizer(), "tiny", "auto") == Frames(Frame(), Frame(end=END))


def test_explicit_separator_stands_everywhere(tiny_gpt2):
    found = frames(tiny_gpt2, tiny_chat_tokenizer(), "tiny", "edit", "--")
    assert {frame.separator for frame in found} == {"--"}


@pytest.mark.parametrize("chat", ["off", "both"])
@pytest.mark.parametrize("end", [True, END])
def test_target_ends_with_the_turn(tiny_gpt2, chat, end):
    edited, _ = frames(tiny_gpt2, tiny_chat_tokenizer(), "tiny", chat, None, end)
    assert edited.end == END


def test_an_end_that_is_no_token_is_refused(tiny_gpt2):
    with pytest.raises(ValueError, match="end_of_target is '<end>', which is not one token of"):
        frames(tiny_gpt2, tiny_tokenizer(), "tiny", end="<end>")


def test_template_with_a_token_beyond_the_embedding_is_refused(tiny_gpt2):
    tokenizer = tiny_chat_tokenizer()
    fillers = tiny_gpt2.config.vocab_size - len(tokenizer)
    tokenizer.add_tokens([*(f"<{n}>" for n in range(fillers)), "<user>"], special_tokens=True)
    with pytest.raises(ValueError, match="'tiny' has no embedding for the token '<user>'"):
        frames(tiny_gpt2, tokenizer, "tiny", "judge")
    assert frames(tiny_gpt2, tokenizer, "tiny").edited == Frame()


def test_items_are_put_as_messages_and_answers_follow_as_the_template_says():
    item = TaskItem("piqa", 0, "See London", (" by train", " by ear"), until=("\n",))
    assert framed_item(item, CHAT) == item._replace(
        context=CHAT.around("See London"), choices=("by train", "by ear")
    )
    spaced = framed_item(item, CHAT._replace(after="[/INST]", separator=None))
    assert spaced.choices == (" by train", " by ear")
    assert framed_item(item, Frame(separator="-", end=END)) is item
