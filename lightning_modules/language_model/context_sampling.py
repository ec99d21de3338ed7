"""Context templates: random text before a prompt, sampled once from the unedited model."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .tokens import encode, special_before

SEEDS = ("The", "Therefore", "Because", "I", "You")


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
    special = torch.tensor(sorted(tokenizer.all_special_ids), dtype=torch.long)
    begin = len(special_before(tokenizer))
    texts: list[list[int]] = []
    alike: dict[tuple[int, int], list[int]] = {}
    noise: list[Tensor] = []
    for length, count in lengths.items():
        for number in range(count):
            texts.append(list(encode(tokenizer, SEEDS[number * len(SEEDS) // count]).tokens))
            missing = max(0, begin + length - len(texts[-1]))
            drawn = torch.empty(missing, top_k, device=generator.device)
            for row in drawn:
                row.exponential_(generator=generator)
            noise.append(drawn)
            alike.setdefault((len(texts[-1]), missing), []).append(len(texts) - 1)
    for numbers in alike.values():
        seeds = torch.tensor([texts[number] for number in numbers], device=lm.device)
        found = continued(lm, seeds, torch.stack([noise[number] for number in numbers]), special)
        for number, tokens in zip(numbers, found.tolist(), strict=True):
            texts[number] += tokens
    plain = [str(tokenizer.decode(text[begin:], skip_special_tokens=True)) for text in texts]
    bare = (" ".join(text.replace("{", " ").replace("}", " ").split()) for text in plain)
    return ["{}", *(f"{text}. {{}}" for text in bare)]


@torch.no_grad()
def continued(lm: PreTrainedModel, read: Tensor, noise: Tensor, special: Tensor) -> Tensor:
    """Continuations of texts of one length, each token drawn from the most probable ones.

    Args:
        lm: the model.
        read: tokens ``(n, t)``.
        noise: ``(n, steps, pool)``, exponential; the token of largest probability over noise is
            drawn, as ``torch.multinomial`` does it.
        special: tokens that are never drawn.

    Returns:
        Tokens ``(n, steps)``.
    """
    drawn = torch.empty(noise.shape[:2], dtype=torch.long)
    cache = None
    for step, chance in enumerate(noise.unbind(1)):
        output = lm(read, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1].float().cpu()
        logits[:, special[special < logits.shape[1]]] = -torch.inf  # an added [PAD] has no logit
        pool, candidates = logits.topk(noise.shape[2])
        chosen = (pool.softmax(1) / chance).argmax(1, keepdim=True)
        drawn[:, step] = candidates.gather(1, chosen)[:, 0]
        read = drawn[:, step : step + 1].to(read.device)
    return drawn
