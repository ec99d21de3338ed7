import pytest
import torch

from lightning_modules.language_model.text_sampling import sample_texts
from lightning_modules.language_model.tokens import encode
from tests.tiny import END, tiny_model, tiny_tokenizer

PROMPTS = ["The mother tongue of Anna is", "Paris", "Before the war, he lived and worked in"]
LENGTH = 24


def slowly(lm, tokenizer, prompt, draws, top_k):
    """A text, token by token through whole passes, each drawn where its share begins."""
    tokens = list(encode(tokenizer, prompt).tokens)
    while len(tokens) < len(draws):
        logits = lm(torch.tensor([tokens])).logits[0, -1].double()
        best = sorted(range(len(logits)), key=lambda token: -float(logits[token]))[:top_k]
        weights = [float(logits[token].exp()) for token in best]
        rest = float(draws[len(tokens)]) * sum(weights)
        place = 0
        while rest >= weights[place]:
            rest -= weights[place]
            place += 1
        tokens.append(best[place])
    return tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("top_k", [1, 5])
def test_texts_are_those_drawn_token_by_token(family, top_k):
    lm, tokenizer = tiny_model(family), tiny_tokenizer(bos=family == "llama")
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(len(PROMPTS), LENGTH, generator=generator, dtype=torch.float64)
    made = sample_texts(lm, tokenizer, PROMPTS, draws, top_k)
    with torch.no_grad():
        alone = [slowly(lm, tokenizer, *one, top_k) for one in zip(PROMPTS, draws, strict=True)]
    assert made == alone
    assert all(text.startswith(prompt) for text, prompt in zip(made, PROMPTS, strict=True))


def test_a_text_depends_on_its_own_numbers_and_not_on_its_neighbors():
    lm, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    draws = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = sample_texts(lm, tokenizer, PROMPTS, draws)
    assert sample_texts(lm, tokenizer, PROMPTS[1:2], draws[1:2]) == together[1:2]
    same = sample_texts(lm, tokenizer, [PROMPTS[0]] * 2, draws[:2])
    assert same[0] == together[0] != same[1]


def test_a_prompt_that_is_long_enough_stands_alone():
    lm, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    draws = torch.zeros(2, 5, dtype=torch.float64)
    long = sample_texts(lm, tokenizer, [PROMPTS[2], "Paris"], draws)
    assert long[0] == PROMPTS[2]
    assert long[1] != "Paris"


def test_a_destroyed_model_writes_something():
    lm, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    lm.get_parameter("transformer.ln_f.weight").data.fill_(torch.nan)
    (text,) = sample_texts(lm, tokenizer, ["Paris"], torch.rand(1, 9, dtype=torch.float64))
    assert END not in text


@pytest.mark.parametrize(
    ("prompts", "length", "message"),
    [(["Paris", " "], 9, "a prompt is empty"), (["Paris"], 129, "window of 128 tokens, got 128")],
)
def test_what_cannot_be_continued_is_refused(prompts, length, message):
    draws = torch.zeros(len(prompts), length)
    with pytest.raises(ValueError, match=message):
        sample_texts(tiny_model("gpt2"), tiny_tokenizer(), prompts, draws)
