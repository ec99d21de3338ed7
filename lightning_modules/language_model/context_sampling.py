"""Context templates: random text before a prompt, sampled once from the unedited model."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .tokens import collate, encode, special_before

SEEDS = ("The", "Therefore", "Because", "I", "You")


@torch.no_grad()
def sample_contexts(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    lengths: Mapping[int, int],
    generator: torch.Generator,
    top_k: int = 5,
) -> list[str]:
    """The plain template ``{}``, then sampled texts, each followed by ``. {}``.

    Args:
        lm: the unedited model.
        tokenizer: its tokenizer.
        lengths: number of templates by length, ``{tokens: templates}``; the length includes the
            seed word but no special tokens. The seed words take turns.
        generator: on the CPU; the only source of randomness.
        top_k: size of the pool each token is sampled from.

    Returns:
        ``1 + sum(lengths.values())`` templates, each with exactly one ``{}``.
    """
    templates = ["{}"]
    special = torch.tensor(sorted(tokenizer.all_special_ids), dtype=torch.long)
    begin = len(special_before(tokenizer))
    for length, count in lengths.items():
        for number in range(count):
            seed = SEEDS[number * len(SEEDS) // count]
            tokens = list(encode(tokenizer, seed).tokens)
            while len(tokens) - begin < length:
                batch = collate([tokens], lm.device)
                logits = lm(batch.tokens, use_cache=False).logits[0, -1].float().cpu()
                logits[special[special < len(logits)]] = -torch.inf  # an added [PAD] has no logit
                pool, candidates = logits.topk(top_k)
                draw = torch.multinomial(pool.softmax(0), 1, generator=generator)
                tokens.append(int(candidates[draw]))
            text = str(tokenizer.decode(tokens[begin:], skip_special_tokens=True))
            plain = " ".join(text.replace("{", " ").replace("}", " ").split())
            templates.append(plain + ". {}")
    return templates
