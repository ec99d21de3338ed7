import re
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from data_modules.records import EditRequest, Frame
from lightning_modules.language_model.joining import separator
from lightning_modules.language_model.tokens import (
    Span,
    begins_texts,
    begun_span,
    collate,
    edit_span,
    encode,
    fast,
    first_token,
    request_span,
    special_before,
    target_span,
    text_span,
)
from tests.tiny import WORDS, tiny_metaspace_tokenizer, tiny_tokenizer

TOKENIZERS = {
    "plain": tiny_tokenizer(),
    "bos": tiny_tokenizer(bos=True),
    "metaspace": tiny_metaspace_tokenizer(),
}
BLANKS = st.sampled_from(["", " ", "   ", "\t", "\n", "\u00a0 "])

letters = st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"])
words = st.one_of(
    st.sampled_from(WORDS.split()),
    st.sampled_from(
        ["Zürich", "東京", "Дублин", "🙂", "e\u0301", "O'Neill", "U.S.", "'s", "-", ","]
    ),
    st.text(letters, min_size=1, max_size=4),
)
joints = st.sampled_from([" ", " ", " ", "", "-", ", ", "  "])


@st.composite
def phrases(draw: st.DrawFn, least: int = 1) -> str:
    """Words with blanks, punctuation or nothing between them; may begin or end with blanks."""
    parts = [draw(words) + draw(joints) for _ in range(draw(st.integers(least, 4)))]
    return draw(BLANKS) + "".join(parts)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, str]:
    """A prompt with one slot, its subject (which may stand elsewhere too), and a target."""
    subject = draw(phrases().map(str.strip).filter(bool))
    around = st.one_of(phrases(least=0), st.just(subject), st.just(f" {subject} of "))
    before, after = draw(around), draw(around)
    return before.replace("{}", "") + "{}" + after.replace("{}", ""), subject, draw(phrases())


def ends_in_bytes(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> list[int]:
    """Bytes of the text spelled by the tokens up to and with each one."""
    metaspace = tokenizer.unk_token is not None
    total, ends = -1 if metaspace else 0, []  # Llama's tokenizer puts a blank before the text
    for piece in tokenizer.convert_ids_to_tokens(tokens):
        if piece in tokenizer.all_special_tokens:
            pass
        elif metaspace and not re.fullmatch("<0x..>", piece):
            total += len(piece.replace("▁", " ").encode())
        else:  # a byte, or a byte-level piece, where each character stands for a byte
            total += 1 if metaspace else len(piece)
        ends.append(total)
    return ends


def searched_span(
    tokenizer: PreTrainedTokenizerFast, prompt: str, subject: str, target: str
) -> Span:
    """The span, found by spelling ever longer prefixes of the tokens."""
    before, after = prompt.split("{}")
    target, filled = target.strip(), f"{before}{subject}{after}"
    text = f"{filled}{separator(filled, target)}{target}" if target else filled.rstrip(" ")
    filled = filled.rstrip(" ")
    tokens = tokenizer(text)["input_ids"]
    ends = ends_in_bytes(tokenizer, tokens)
    assert ends[-1] == len(text.encode())
    start = next((n for n, end in enumerate(ends) if end > len(filled.encode())), len(tokens))
    subject_end = len((before + subject).encode())
    return Span(tokens, start, next(n for n, end in enumerate(ends) if end >= subject_end))


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(request=requests())
def test_span_equals_a_search_through_prefixes(kind, request):
    tokenizer = TOKENIZERS[kind]
    assert request_span(tokenizer, *request) == searched_span(tokenizer, *request)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("prompt", "subject", "target"),
    [
        ("{} and Romeo live in", "Rome", "Italy"),
        ("Romeo and {} live in", "Rome", "Italy"),
        ("Rome, not {}, is the capital of Rome's", "Rome", "Italian Republic"),
        ("{}eo was written by", "Rom", "William Shakespeare"),
        ("  {}", "Mary", "  San Marino "),
        ("The river of {}", "Zürich", "東京 🙂"),
        ("{}'s mother tongue is", "Danielle Darrieux", "French"),
        ("({})", "🙂", "?!"),
    ],
)
def test_span_of_an_awkward_request(kind, prompt, subject, target):
    tokenizer = TOKENIZERS[kind]
    span = request_span(tokenizer, prompt, subject, target)
    assert span == searched_span(tokenizer, prompt, subject, target)
    assert tokenizer.decode(span.tokens[span.start :]).strip() == target.strip()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_slot_decides_which_of_two_subjects_counts(kind):
    tokenizer = TOKENIZERS[kind]
    first = request_span(tokenizer, "{} is larger than Rome", "Rome", "Paris")
    second = request_span(tokenizer, "Rome is larger than {}", "Rome", "Paris")
    assert first.tokens == second.tokens
    assert tokenizer.decode(first.tokens[: first.subject + 1], skip_special_tokens=True) == "Rome"
    assert second.subject == second.start - 1


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=50, deadline=None)
@given(prompt=phrases(), target=phrases(), at_end=BLANKS, around=BLANKS)
def test_prompt_and_target_are_joined_by_the_rule_and_nothing_else(
    kind, prompt, target, at_end, around
):
    tokenizer = TOKENIZERS[kind]
    prompt, bare = prompt + at_end, target.strip()
    if not prompt.strip():
        return
    span = target_span(tokenizer, prompt, around + target + around)
    expected = prompt + separator(prompt, bare) + bare if bare else prompt.rstrip(" ")
    assert span.tokens == tokenizer(expected)["input_ids"]
    assert tokenizer.decode(span.tokens, skip_special_tokens=True) == expected


@pytest.mark.parametrize("end", ["assistant\n", "assistant\n\n", "assistant\t"])
def test_behind_white_space_the_target_follows_as_it_is_written(tokenizer, end):
    span = target_span(tokenizer, f"user\nRome?\n{end}", "Paris")
    assert tokenizer.decode(span.tokens, skip_special_tokens=True).endswith(f"{end}Paris")
    assert tokenizer.decode(span.tokens[span.start :]) == "Paris"


def test_blank_at_a_prompts_end_changes_nothing(tokenizer):
    assert target_span(tokenizer, "Rome is ", "old") == target_span(tokenizer, "Rome is", "old")


@pytest.mark.parametrize(("between", "target"), [("", "Paris"), (" ", " Paris"), (": ", " Paris")])
def test_explicit_separator_overrules_the_rule(tokenizer, between, target):
    for prompt in ("The capital\n", "The capital"):
        span = target_span(tokenizer, prompt, "Paris", between=between)
        text = tokenizer.decode(span.tokens, skip_special_tokens=True)
        assert text == f"{prompt}{between}Paris"
        assert tokenizer.decode(span.tokens[span.start :]) == target


@pytest.mark.parametrize("target", ["", "  ", "\n"])
def test_empty_target_has_no_predicted_token(tokenizer, target):
    span = request_span(tokenizer, "{} is a ", "Rome", target)
    assert span.tokens == tokenizer("Rome is a")["input_ids"]
    assert span.start == len(span.tokens)


def test_target_of_several_tokens_is_predicted_whole(tokenizer):
    span = target_span(tokenizer, "The capital is", "Geneva, Switzerland")
    assert len(span.tokens) - span.start > 2
    assert tokenizer.decode(span.tokens[span.start :]) == " Geneva, Switzerland"


def test_target_that_the_tokenizer_drops_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" \u200b", "")
    with pytest.raises(ValueError, match="has no token of its own after 'Rome is'"):
        target_span(tokenizer, "Rome is", "\u200b")


def test_target_without_anything_before_it_is_refused():
    with pytest.raises(ValueError, match="nothing precedes the target 'Rome'"):
        target_span(TOKENIZERS["plain"], " ", "Rome")
    assert target_span(TOKENIZERS["bos"], " ", "Rome").start == 1


SPECIAL = [("", ""), ("bos", ""), ("", "eos"), ("bos", "eos")]


@pytest.mark.parametrize(("first", "last"), SPECIAL)
def test_special_tokens_before_a_text_are_kept_and_those_behind_it_are_not(first, last):
    tokenizer = tiny_tokenizer(bool(first), bool(last))
    plain = TOKENIZERS["plain"]("Rome is old")["input_ids"]
    before = [tokenizer.bos_token_id] if first else []
    assert encode(tokenizer, "Rome is old").tokens == before + plain
    assert special_before(tokenizer) == before
    span = request_span(tokenizer, "{} is", "Rome", "old")
    assert span.tokens == before + plain
    assert tokenizer.decode(span.tokens[span.start :]) == " old"
    assert text_span(tokenizer, "Rome is old").tokens == plain


@pytest.mark.parametrize("kind", ["bos", "metaspace"])
def test_text_that_begins_with_bos_gets_no_second_one(kind):
    tokenizer = TOKENIZERS[kind]
    text = f"{tokenizer.bos_token}Rome is"
    span = request_span(tokenizer, f"{tokenizer.bos_token}{{}} is", "Rome", "old")
    assert span.tokens.count(tokenizer.bos_token_id) == 1
    assert span.tokens[0] == tokenizer.bos_token_id
    assert tokenizer.decode(span.tokens[span.start :]).strip() == "old"
    assert tokenizer.decode(span.tokens[1 : span.subject + 1]).strip() == "Rome"
    assert encode(tokenizer, text).offsets[0] == (0, len(tokenizer.bos_token))


def test_a_token_of_both_subject_and_target_is_refused():
    tokenizer = deepcopy(TOKENIZERS["plain"])
    tokenizer.add_tokens("Rome")
    request = EditRequest(0, "It is ({}", "Rom", "e", frame=Frame(separator=""))
    with pytest.raises(ValueError, match=r"one token of the subject's end and the target 'e'"):
        edit_span(tokenizer, request)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_request_is_found_in_its_frame_and_behind_a_context(kind):
    tokenizer = TOKENIZERS[kind]
    frame = Frame("<{}> user\n", " <end>\nassistant\n", end="<end>")
    request = EditRequest(0, "The river of {} is", "Rome", "Rome", frame=frame)
    span = edit_span(tokenizer, request, "It rains. {}")
    text = "<{}> user\nIt rains. The river of Rome is <end>\nassistant\nRome<end>"
    assert span.tokens == tokenizer(text)["input_ids"]
    assert tokenizer.decode(span.tokens[span.start :]) == "Rome<end>"
    told = tokenizer.decode(span.tokens[: span.subject + 1], skip_special_tokens=True)
    assert told == text[: text.index("Rome") + 4]


def test_target_that_is_empty_has_no_end():
    request = EditRequest(0, "{} is a", "Rome", "", frame=Frame(end="<end>"))
    span = edit_span(TOKENIZERS["plain"], request)
    assert span.tokens == TOKENIZERS["plain"]("Rome is a")["input_ids"]


def test_watched_text_has_no_special_tokens(tokenizer):
    span = text_span(tokenizer, "Rome is old")
    assert span == Span(TOKENIZERS["plain"]("Rome is old")["input_ids"], 1)


def test_batch_is_padded_on_the_right():
    batch = collate([[5, 6], [7, 8, 9], [4]], torch.device("cpu"))
    assert batch.tokens.tolist() == [[5, 6, 0], [7, 8, 9], [4, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2]] * 3


def test_tokenizer_without_offsets_is_refused():
    with pytest.raises(ValueError, match="tokenizer of 'byt5' is not a fast one"):
        fast(ByT5Tokenizer(), "byt5")
    assert fast(TOKENIZERS["plain"], "tiny") is TOKENIZERS["plain"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_first_token_is_the_first_that_is_no_special_one(kind):
    tokenizer = TOKENIZERS[kind]
    whole = tokenizer("Rome is old")["input_ids"]
    span = first_token(tokenizer, "Rome is old")
    special = whole[0] in tokenizer.all_special_ids
    assert span.subject == int(special)
    assert span.tokens == whole[: span.subject + 1]


def test_a_text_is_put_behind_bos_once_where_the_tokenizer_does_so():
    plain, begun = tiny_tokenizer(), tiny_tokenizer(bos=True)
    assert (begins_texts(plain), begins_texts(begun)) == (False, True)
    bare = text_span(begun, "The river").tokens
    assert begun_span(begun, "The river") == Span([begun.bos_token_id, *bare], 1)
    assert begun_span(begun, begun.bos_token + "The river") == begun_span(begun, "The river")
