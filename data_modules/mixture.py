"""Sentences to watch a model on, sampled from corpora in given proportions like ME-PPL."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .edit_requests import EditingDataModule
from .text.corpora import documents

ME_PPL = {  # shares of ME-PPL's 10,000 sentences
    "OpenWebText": 0.5,
    "C4": 0.25,
    "Wikipedia": 0.1,
    "cc_news": 0.07,
    "Roots": 0.05,
    "Gutenberg": 0.025,
    "BookCorpus": 0.005,
}
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")


class MixtureDataModule(EditingDataModule):
    """Watches a sample of corpora, written to the file ``watch`` in ME-PPL's form.

    The sample is drawn once; if the file exists, it is read.

    Args:
        corpora: by name, a file, a folder or a hub dataset; a name may be in ``shares``.
        shares: by name, the share of sentences; those of the given corpora are scaled to 1.
        sentences: number of sentences to draw.
        words: minimum and maximum words of a sentence.
        read: maximum number of documents read per corpus.
        draw: seed of the sampling.

    Raises:
        ValueError: if there is no corpus, or none has a share.
    """

    def __init__(
        self,
        corpora: dict[str, str],
        shares: dict[str, float] = ME_PPL,
        sentences: int = 1000,
        words: tuple[int, int] = (11, 480),
        read: int = 10_000,
        draw: int = 0,
        watch: str = "me-ppl.json",
        **options: Any,
    ) -> None:
        super().__init__(watch=watch, **options)
        unknown = sorted(set(corpora) - {name for name, share in shares.items() if share > 0})
        if unknown or not corpora:
            raise ValueError(
                f"corpora {unknown} have no share, which is needed of at least one; the shares "
                f"name {sorted(shares)}"
            )
        self.corpora = corpora
        self.shares = shares
        self.sentences = sentences
        self.words = words
        self.read = read
        self.draw = draw

    def prepare_data(self) -> None:
        """Draws the sample, writes it, and reports the number of sentences per corpus.

        Raises:
            FileNotFoundError: if a corpus cannot be reached.
            ValueError: if a corpus has too few sentences.
        """
        file = Path(str(self.watch))
        if file.exists():
            return
        drawn = [
            {"Corpus": name, "Text": text}
            for name, quota in quotas(self.corpora, self.shares, self.sentences).items()
            for text in self.sample(name, quota)
        ]
        random.Random(self.draw).shuffle(drawn)
        file.write_text(json.dumps(drawn, indent=1, ensure_ascii=False) + "\n", "utf-8")
        counted = ", ".join(
            f"{n} {c}" for n, c in Counter(r["Corpus"] for r in drawn).most_common()
        )
        rank_zero_info(f"{len(drawn)} sentences drawn into {file}: {counted}")

    def sample(self, name: str, quota: int) -> list[str]:
        """``quota`` sentences of a corpus, uniformly from the documents read."""
        read = islice(documents(self.corpora[name]), self.read)
        fitting = [text for document in read for text in sentences_of(document, self.words)]
        if len(fitting) < quota:
            raise ValueError(
                f"corpus {name} ({self.corpora[name]}) has {len(fitting)} sentences of "
                f"{self.words[0]} to {self.words[1]} words in {self.read} documents, and {quota} "
                "are needed; draw fewer, or give more text"
            )
        return random.Random(f"{self.draw} {name}").sample(fitting, quota)


def sentences_of(document: str, words: tuple[int, int]) -> Iterator[str]:
    """Sentences within the range of words, each on one line."""
    for line in document.splitlines():
        for text in SENTENCE_END.split(line.strip()):
            if words[0] <= len(text.split()) <= words[1]:
                yield text


def quotas(names: Iterable[str], shares: Mapping[str, float], total: int) -> dict[str, int]:
    """The part of ``total`` for each name by its share; the largest remainders round up."""
    wanted = {name: shares[name] for name in names}
    exact = {name: total * share / sum(wanted.values()) for name, share in wanted.items()}
    found = {name: int(count) for name, count in exact.items()}
    by_remainder = sorted(exact, key=lambda name: found[name] - exact[name])
    for name in by_remainder[: total - sum(found.values())]:
        found[name] += 1
    return found
