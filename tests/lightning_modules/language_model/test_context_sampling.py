from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

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
def watching(lm: PreTrainedModel) -> Iterator[list[tuple]]:
    """Inputs and last logits of each pass."""
    passes = []
    handle = lm.register_forward_hook(
        lambda module, args, output: passes.append((args[0][0].tolist(), output.logits[0, -1]))
    )
    try:
        yield passes
    finally:
        handle.remove()


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


def test_tokens_are_counted_with_the_seed_word_and_without_special_ones(tiny_gpt2, tokenizer):
    special = len(tokenizer("")["input_ids"])
    with watching(tiny_gpt2) as passes:
        sample(tiny_gpt2, tokenizer)
    expected = []
    for length, count in LENGTHS.items():
        for seed in [SEEDS[number * 5 // count] for number in range(count)]:
            begin = len(tokenizer(seed)["input_ids"])
            expected += range(begin, length + special)
    assert [len(tokens) for tokens, _ in passes] == expected


def test_each_token_is_among_the_most_probable(tiny_gpt2):
    with watching(tiny_gpt2) as passes:
        sample(tiny_gpt2, tiny_tokenizer(), top_k=2)
    ranks = []
    for (before, logits), (after, _) in pairwise(passes):
        if after[:-1] == before:
            logits[0] = -torch.inf  # the special token
            ranks.append(int((logits > logits[after[-1]]).sum()))
    assert set(ranks) == {0, 1}


def test_special_tokens_are_never_drawn(tiny_gpt2):
    with favouring(tiny_gpt2, [0]), watching(tiny_gpt2) as passes:
        templates = sample(tiny_gpt2, tiny_tokenizer())
    assert all(0 not in tokens for tokens, _ in passes)
    assert len(templates[1]) > len(f"{SEEDS[0]}. {{}}")


@pytest.mark.parametrize("text", [END, "{", "}"])
def test_neither_special_tokens_nor_braces_are_kept(tiny_gpt2, tokenizer, text):
    with favouring(tiny_gpt2, tokenizer(text, add_special_tokens=False)["input_ids"]):
        templates = sample(tiny_gpt2, tokenizer, top_k=1)
    for template in templates[1:]:
        assert text not in template.removesuffix("{}")
        assert template.count("{}") == 1
