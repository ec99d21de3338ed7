from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import PreTrainedModel

from lightning_modules.language_model.context_sampling import SEEDS, sample_contexts
from tests.tiny import END, tiny_tokenizer

LENGTHS = {6: 5, 9: 2}


def sample(lm, tokenizer, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return sample_contexts(lm, tokenizer, LENGTHS, generator, **options)


@contextmanager
def favouring(lm: PreTrainedModel, tokens: list[int]) -> Iterator[None]:
    """Inside, the model would say nothing but these tokens."""
    bonus = torch.zeros(lm.config.vocab_size)
    bonus[tokens] = 1e4
    handle = lm.get_output_embeddings().register_forward_hook(lambda m, args, out: out + bonus)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watching(lm: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Tokens that each pass reads."""
    passes: list[torch.Tensor] = []
    handle = lm.register_forward_hook(lambda module, args, output: passes.append(args[0]))
    try:
        yield passes
    finally:
        handle.remove()


def one_by_one(lm, tokenizer, seed=0, top_k=5):
    """The texts of the templates, token by token, each from a pass over all tokens before."""
    generator = torch.Generator().manual_seed(seed)
    begin = len(tokenizer("")["input_ids"])
    texts = []
    for length, count in LENGTHS.items():
        for number in range(count):
            tokens = tokenizer(SEEDS[number * 5 // count])["input_ids"]
            while len(tokens) - begin < length:
                logits = lm(torch.tensor([tokens]), use_cache=False).logits[0, -1]
                logits[tokenizer.all_special_ids] = -torch.inf
                pool, candidates = logits.topk(top_k)
                draw = torch.multinomial(pool.softmax(0), 1, generator=generator)
                tokens.append(int(candidates[draw]))
            texts.append(tokenizer.decode(tokens, skip_special_tokens=True))
    return [" ".join(text.replace("{", " ").replace("}", " ").split()) for text in texts]


def test_same_seed_gives_same_templates(tiny_gpt2, tokenizer):
    assert sample(tiny_gpt2, tokenizer) == sample(tiny_gpt2, tokenizer)
    assert sample(tiny_gpt2, tokenizer) != sample(tiny_gpt2, tokenizer, seed=1)


def test_tokens_that_the_tokenizer_puts_behind_a_text_leave_the_templates_as_they_are(tiny_gpt2):
    for bos in (False, True):
        templates = sample(tiny_gpt2, tiny_tokenizer(bos, eos=True))
        assert templates == sample(tiny_gpt2, tiny_tokenizer(bos))
        assert all(map(str.startswith, templates[1:6], SEEDS))


def test_special_token_beyond_the_embedding_is_no_index(tiny_gpt2):
    tokenizer = tiny_tokenizer()
    expected = sample(tiny_gpt2, tokenizer)
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), tiny_gpt2.config.vocab_size)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= tiny_gpt2.config.vocab_size
    assert sample(tiny_gpt2, tokenizer) == expected


def test_global_random_numbers_play_no_part(tiny_gpt2, tokenizer):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, state = sample(tiny_gpt2, tokenizer), torch.get_rng_state()
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        assert sample(tiny_gpt2, tokenizer) == first


def test_plain_template_is_first_and_each_has_one_slot(tiny_lm):
    templates = sample(tiny_lm, tiny_tokenizer())
    assert templates[0] == "{}"
    assert len(templates) == 1 + sum(LENGTHS.values())
    for template in templates[1:]:
        assert template.endswith(". {}")
        assert template.count("{") == template.count("}") == 1


def test_seed_words_take_turns(tiny_gpt2, tokenizer):
    templates = sample(tiny_gpt2, tokenizer)[1:]
    first, second = templates[:5], templates[5:]
    assert all(text.startswith(seed) for text, seed in zip(first, SEEDS, strict=True))
    assert second[0].startswith(SEEDS[0])
    assert second[1].startswith(SEEDS[2])


@pytest.mark.parametrize("top_k", [2, 5])
def test_a_batch_draws_what_one_text_after_another_draws(tiny_lm, top_k):
    tokenizer = tiny_tokenizer()
    templates = sample(tiny_lm, tokenizer, top_k=top_k)[1:]
    slowly = one_by_one(tiny_lm, tokenizer, top_k=top_k)
    assert templates == [f"{text}. {{}}" for text in slowly]


def test_texts_of_equal_length_are_continued_together_and_read_once(tiny_gpt2, tokenizer):
    with watching(tiny_gpt2) as passes:
        sample(tiny_gpt2, tokenizer)
    special = len(tokenizer("")["input_ids"])
    texts = [
        (length, SEEDS[n * 5 // count]) for length, count in LENGTHS.items() for n in range(count)
    ]
    read = sum(length + special - 1 for length, _ in texts)  # the last token is only drawn
    assert sum(tokens.numel() for tokens in passes) == read
    assert len(passes) < sum(length - 1 for length, _ in texts)


def test_special_tokens_are_never_drawn(tiny_gpt2):
    with favouring(tiny_gpt2, [0]), watching(tiny_gpt2) as passes:
        templates = sample(tiny_gpt2, tiny_tokenizer())
    assert all(0 not in tokens for tokens in passes)
    assert len(templates[1]) > len(f"{SEEDS[0]}. {{}}")


@pytest.mark.parametrize("text", [END, "{", "}"])
def test_neither_special_tokens_nor_braces_are_kept(tiny_gpt2, tokenizer, text):
    with favouring(tiny_gpt2, tokenizer(text, add_special_tokens=False)["input_ids"]):
        templates = sample(tiny_gpt2, tokenizer, top_k=1)
    for template in templates[1:]:
        assert text not in template.removesuffix("{}")
        assert template.count("{}") == 1
