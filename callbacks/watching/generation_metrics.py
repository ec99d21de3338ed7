"""What the model writes after an edit: the answer in its own words, and how varied they are."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import lightning as L
from scipy.stats import entropy

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import in_turn
from lightning_modules.language_model.generation import generate, prompt_room

from ..keeping.means import mean_scores
from .edit_metrics import log_retained

STOPS = (".", "\n")


class GenerationMetrics(L.Callback):
    """Lets the model go on from a request's prompts, greedily, and reads what it writes.

    ``efficacy_generation`` and ``paraphrase_generation`` are 1 where the text up to the first full
    stop, line break or end begins with the target, word by word, whatever the case. The model is
    given no token of the target, yet this forgives what follows, as teacher forcing does, which
    tells the target's length (The Mirage of Model Editing); ``*_generation_exact`` does not: the
    target must be all there is. A model that rightly goes on in a clause fails that one, so that
    a reader's judgement lies between the two. ``generation_entropy`` is ROME's fluency.

    Args:
        every_n_edits: edits from one measurement to the next.
        max_new_tokens: of each text.

    Raises:
        ValueError: if one of them is not positive.
    """

    def __init__(self, every_n_edits: int = 1, max_new_tokens: int = 50) -> None:
        for name, number in (("every_n_edits", every_n_edits), ("max_new_tokens", max_new_tokens)):
            if number <= 0:
                raise ValueError(f"{name} must be positive, got {number}")
        self.every_n_edits = every_n_edits
        self.max_new_tokens = max_new_tokens
        self.read: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Finds out early whether the model can write so much."""
        prompt_room(pl_module.lm, self.max_new_tokens)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Completes the record of an edit."""
        edit = pl_module.record.get("edit", trainer.global_step)
        if batch and edit % self.every_n_edits == 0:
            pl_module.record |= mean_scores(self.measured(pl_module, batch))

    def on_test_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Starts anew."""
        self.read = []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Adds those of the requests that were judged."""
        self.read.append(self.measured(pl_module, pl_module.tested(batch)))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Logs the means over all of them, as ``retention/*``."""
        log_retained(pl_module, [scores for batch in in_turn(self.read) for scores in batch])

    def measured(self, editor: Editor, requests: Sequence[EditRequest]) -> list[dict[str, float]]:
        """What each request's texts tell; what they cannot is absent."""
        worded = [editor.worded(request) for request in requests]
        prompts = [[request.text, *request.paraphrases] for request in worded]
        texts = iter(self.written(editor, [prompt for own in prompts for prompt in own]))
        return [
            reading(request.target_new, [next(texts) for _ in own])
            for request, own in zip(requests, prompts, strict=True)
        ]

    def written(self, editor: Editor, prompts: Sequence[str]) -> list[str]:
        """What the model writes behind each prompt; devices that share an edit share the work."""
        rank, devices = editor.share
        own = generate(editor.lm, editor.tokenizer, prompts[rank::devices], (), self.max_new_tokens)
        part = dict(zip(range(rank, len(prompts), devices), own, strict=True))
        texts = editor.share.joined(part, editor.device)
        return [texts[number] for number in range(len(prompts))]


def reading(target: str, texts: Sequence[str]) -> dict[str, float]:
    """The measures of one request.

    Args:
        target: the answer wanted.
        texts: what was written behind the prompt itself, then behind its paraphrases.
    """
    entropies = [found for found in map(generation_entropy, texts) if found is not None]
    return mean_scores(
        [{f"efficacy_{name}": hit for name, hit in matches(texts[0], target).items()}]
        + [
            {f"paraphrase_{name}": hit for name, hit in matches(text, target).items()}
            for text in texts[1:]
        ]
        + [{"generation_entropy": found} for found in entropies]
    )


def matches(text: str, target: str) -> dict[str, float]:
    """Whether the text begins with the target, and whether it is the target, up to its stop.

    Words are compared, without case and punctuation. A stop within the target, as in ``St. Louis``,
    ends nothing.
    """
    text = text.strip()
    stops = [text.find(stop, len(target)) for stop in STOPS]
    said = _words(text[: min((stop for stop in stops if stop >= 0), default=len(text))])
    wanted = _words(target)
    return {
        "generation": float(said[: len(wanted)] == wanted),
        "generation_exact": float(said == wanted),
    }


def generation_entropy(text: str) -> float | None:
    """Mean entropy of a text's bigrams and trigrams, the latter counting twice, in bits.

    ROME's fluency (Meng et al. 2022, section 3.4), which is low where a text repeats itself; the
    most that n trigrams can have is log2 n, so texts of different length do not compare. None if
    the text has fewer than two trigrams, which tell nothing.
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    if len(words) < 4:
        return None
    bigrams, trigrams = (
        entropy([*Counter(zip(*(words[at:] for at in range(n)), strict=False)).values()], base=2)
        for n in (2, 3)
    )
    return float(bigrams + 2 * trigrams) / 3


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
