import copy

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lightning_modules.language_model.generation import generate, padded_left
from lightning_modules.language_model.tokens import collate, target_span
from tests.tiny import END, tiny_metaspace_tokenizer, tiny_model, tiny_tokenizer

CHAT = "<user>\nRome?\n<assistant>\n"
PROMPTS = [
    "Paris",
    "The mother tongue of Danielle Vinson is",
    "Miles Davis plays the",
    "Of all the villages at the lake, the one with the old bridge and the small church is in",
    "London is the capital of ",
]


def said(lm: PreTrainedModel, tokens: list[int], steps: int) -> list[int]:
    """Greedy tokens, one pass over the whole text for each."""
    tokens = list(tokens)
    for _ in range(steps):
        tokens.append(int(lm(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens


def slow(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, steps: int) -> str:
    """A continuation without padding, cache or stop."""
    prompted = target_span(tokenizer, prompt, "").tokens
    tokens = said(lm, prompted, steps)
    end = next((n for n in range(len(prompted), len(tokens)) if tokens[n] == 0), len(tokens))
    text, before = (tokenizer.decode(t, skip_special_tokens=True) for t in (tokens[:end], prompted))
    return text[len(before) :]


def saying(lm: PreTrainedModel, token: int) -> PreTrainedModel:
    """A copy of the model that says nothing but this token."""
    lm = copy.deepcopy(lm)
    bonus = torch.zeros(lm.config.vocab_size)
    bonus[token] = 1e4
    lm.get_output_embeddings().register_forward_hook(lambda m, args, out: out + bonus)
    return lm


@pytest.mark.parametrize("bos", [False, True], ids=["plain", "bos"])
def test_a_batch_says_what_each_prompt_alone_is_continued_by(tiny_lm, bos):
    tokenizer = tiny_tokenizer(bos)
    assert generate(tiny_lm, tokenizer, PROMPTS, (), 12) == [
        slow(tiny_lm, tokenizer, prompt, 12) for prompt in PROMPTS
    ]


@pytest.mark.parametrize("batch_tokens", [1, 60])
def test_the_size_of_a_batch_changes_nothing(tiny_lm, batch_tokens):
    tokenizer = tiny_tokenizer()
    together = generate(tiny_lm, tokenizer, PROMPTS, ["e"], 12)
    assert generate(tiny_lm, tokenizer, PROMPTS, ["e"], 12, batch_tokens) == together


def test_blanks_behind_words_survive_a_tokenizer_that_drops_the_first(tiny_llama):
    tokenizer = tiny_metaspace_tokenizer()
    texts = generate(tiny_llama, tokenizer, PROMPTS, (), 12)
    assert texts == [slow(tiny_llama, tokenizer, prompt, 12) for prompt in PROMPTS]
    word = max((w for w in tokenizer.get_vocab() if w.startswith("▁")), key=len)
    speaker = saying(tiny_llama, tokenizer.convert_tokens_to_ids(word))
    assert generate(speaker, tokenizer, ["Paris"], (), 2) == [f" {word[1:]}" * 2]


@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_padding_side_nor_pad_token_plays_a_part(tiny_gpt2, side):
    tokenizer = tiny_tokenizer()
    expected = generate(tiny_gpt2, tokenizer, PROMPTS, (), 5)
    tokenizer.padding_side, tokenizer.pad_token = side, "e"
    assert generate(tiny_gpt2, tokenizer, PROMPTS, (), 5) == expected


def test_the_first_stop_to_come_ends_a_continuation(tiny_gpt2, tokenizer):
    whole = generate(tiny_gpt2, tokenizer, PROMPTS, (), 12)
    late, early = whole[1][6], whole[1][3]
    cut = generate(tiny_gpt2, tokenizer, PROMPTS, [late, early], 12)
    assert cut == [min(text.split(late)[0], text.split(early)[0], key=len) for text in whole]
    assert len(cut[1]) <= 3


def test_generation_ends_when_every_row_has_met_a_stop(tiny_gpt2, tokenizer):
    passes = []
    full_stop = saying(tiny_gpt2, tokenizer(".")["input_ids"][-1])
    full_stop.register_forward_hook(lambda m, args, out: passes.append(out))
    assert generate(full_stop, tokenizer, PROMPTS[:3], ["."], 12) == [""] * 3
    assert len(passes) == 1


def test_an_end_token_ends_a_continuation_and_is_not_read(tiny_gpt2, tokenizer):
    end = tokenizer.convert_tokens_to_ids(END)
    assert generate(saying(tiny_gpt2, end), tokenizer, PROMPTS, (), 12) == [""] * len(PROMPTS)
    word = tokenizer("Paris", add_special_tokens=False)["input_ids"][0]
    speaker = saying(tiny_gpt2, word)
    speaker.generation_config.eos_token_id = [end, word]
    assert generate(speaker, tokenizer, PROMPTS, (), 12) == [""] * len(PROMPTS)


def test_a_model_that_would_sample_is_greedy_here_and_samples_on(tiny_gpt2, tokenizer):
    expected = generate(tiny_gpt2, tokenizer, PROMPTS, (), 12)
    sampler = copy.deepcopy(tiny_gpt2)
    sampler.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=9.0)
    assert generate(sampler, tokenizer, PROMPTS, (), 12) == expected
    assert sampler.generation_config.do_sample
    assert sampler.generation_config.repetition_penalty == 9.0


def test_a_prompt_too_long_for_the_model_loses_its_beginning(tiny_gpt2):
    tokenizer, prompt = tiny_tokenizer(), " ".join(["The river is long"] * 60)
    kept = tokenizer(prompt)["input_ids"][-(128 - 12) :]
    expected = tokenizer.decode(said(tiny_gpt2, kept, 12)[len(kept) :])
    assert generate(tiny_gpt2, tokenizer, ["Paris", prompt], (), 12)[1] == expected


def test_padding_moves_to_the_left():
    left = padded_left(collate([[7, 8, 9], [5]], torch.device("cpu")))
    assert left.tokens.tolist() == [[7, 8, 9], [0, 0, 5]]
    assert left.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left.positions.tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize("limit", [0, 128])
def test_a_limit_that_leaves_no_room_is_refused(tiny_gpt2, limit):
    with pytest.raises(ValueError, match=f"room for a prompt .* window of 128 tokens, got {limit}"):
        generate(tiny_gpt2, tiny_tokenizer(), PROMPTS, (), limit)


@pytest.mark.parametrize(("prompt", "stop"), [(" ", "."), ("Paris", "")])
def test_empty_prompts_and_stops_are_refused(tiny_gpt2, prompt, stop):
    with pytest.raises(ValueError, match="a prompt or a text of until is empty"):
        generate(tiny_gpt2, tiny_tokenizer(), [prompt], [stop])


def test_no_prompt_has_no_continuation():
    assert generate(tiny_model("gpt2"), tiny_tokenizer(), [], ["."]) == []


def test_line_break_at_a_prompts_end_is_read_by_the_model(tiny_gpt2, tokenizer):
    tokens = tokenizer(CHAT)["input_ids"]
    expected = said(tiny_gpt2, tokens, 5)[len(tokens) :]
    assert target_span(tokenizer, CHAT, "").tokens == tokens
    (text,) = generate(tiny_gpt2, tokenizer, [CHAT], (), 5)
    assert text == tokenizer.decode(expected, skip_special_tokens=True)


def test_special_token_among_the_stops_ends_a_text(tiny_gpt2):
    tokenizer = tiny_tokenizer()
    word = tokenizer(" Rome")["input_ids"]
    speaker = saying(tiny_gpt2, word[-1])
    tokenizer.add_tokens([tokenizer.convert_ids_to_tokens(word[-1])], special_tokens=True)
    stop = tokenizer.convert_ids_to_tokens(word[-1])
    assert generate(speaker, tokenizer, PROMPTS, [stop], 12) == [""] * len(PROMPTS)
