"""Text windows and statements of facts, to train the embedded language model on."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from .embedded import embedded_requests
from .records import EditRequest
from .text.corpora import documents

IGNORED = -100
END = "<|endoftext|>"


class Windows(NamedTuple):
    """Token windows ``(b, t)``; labels are the tokens, or -100 if not scored."""

    tokens: Tensor
    labels: Tensor


def statements(request: EditRequest) -> list[str]:
    """The true fact in each of its wordings, as sentences."""
    prompts = (request.text, *request.paraphrases)
    return [f"{prompt} {request.target_true}." for prompt in prompts]


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in GPT-2's form, with ``<|endoftext|>`` as token 0."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=ByteLevel.alphabet(),
        ),
    )
    return gpt2_tokenizer(tokenizer)


def with_whole_words(
    tokenizer: PreTrainedTokenizerFast, words: Iterable[str]
) -> PreTrainedTokenizerFast:
    """The same tokenizer with merges appended, so that each word is one token at a text's start.

    Byte-level BPE otherwise knows most words only after a blank.
    """
    added: list[tuple[str, str]] = []
    for word in words:
        pieces = tokenizer.tokenize(word)
        for pair in added:
            pieces = _merged(pieces, pair)
        while len(pieces) > 1:
            added.append((pieces[0], pieces[1]))
            pieces = _merged(pieces, added[-1])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["merges"] += added
    for pair in added:
        state["model"]["vocab"].setdefault("".join(pair), len(state["model"]["vocab"]))
    return gpt2_tokenizer(Tokenizer.from_str(json.dumps(state)))


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Pieces of a word after one more merge, from left to right."""
    result: list[str] = []
    for piece in pieces:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def gpt2_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer in transformers' form that begins no text with a special token."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


class MixedWindows(IterableDataset):
    """An endless stream of batches: windows of running text, or of shuffled statements.

    Text windows begin at random offsets, so that any token may be at position 0. Half of the
    statement windows begin with a piece of running text, so that facts also occur after text.

    Args:
        stream: ``(t,)``, the corpus as one row of tokens.
        facts: one tensor of tokens per statement.
        lengths: window lengths of text; statements come in windows of the first.
        tokens_per_batch: batch size times window length.
        statement_share: fraction of batches made of statements.
        seed: of the random choices.
    """

    def __init__(
        self,
        stream: Tensor,
        facts: Sequence[Tensor],
        lengths: Sequence[int],
        tokens_per_batch: int,
        statement_share: float,
        seed: int,
    ) -> None:
        self.stream = stream
        self.facts = facts
        self.lengths = lengths
        self.tokens_per_batch = tokens_per_batch
        self.statement_share = statement_share
        self.seed = seed

    def __iter__(self) -> Iterator[Windows]:
        random = torch.Generator().manual_seed(self.seed)
        while True:
            if torch.rand((), generator=random) < self.statement_share:
                length = self.lengths[0]
                window = self._statements
            else:
                length = self.lengths[int(torch.randint(len(self.lengths), (), generator=random))]
                window = self._text
            count = self.tokens_per_batch // length
            tokens = torch.stack([window(length, random) for _ in range(count)])
            yield Windows(tokens, tokens)

    def _text(self, length: int, random: torch.Generator) -> Tensor:
        start = torch.randint(len(self.stream) - length, (), generator=random)
        return self.stream[start : start + length].long()

    def _statements(self, length: int, random: torch.Generator) -> Tensor:
        lead = max(0, int(torch.randint(-24, 24, (), generator=random)))
        pieces = [self._text(lead, random)]
        while sum(map(len, pieces)) < length:
            pieces.append(self.facts[int(torch.randint(len(self.facts), (), generator=random))])
        return torch.cat(pieces)[:length]


class PretrainingDataModule(L.LightningDataModule):
    """Running text and statements of the embedded facts, with a tokenizer trained on both.

    Args:
        path: corpus: a text or JSON-lines file, a folder of them, or a hub dataset.
        config: the hub dataset's configuration.
        limit: documents to read from the corpus; all if null.
        start: folder of a tokenizer to start from; one is trained if null. Either way the one-word
            subjects become single tokens.
        vocabulary: maximum number of tokens of the tokenizer.
        lengths: window lengths of text; statements come in windows of the first.
        tokens_per_batch: tokens per optimizer step.
        statement_share: fraction of the training tokens that state embedded facts.
        seed: of every random choice.
    """

    def __init__(
        self,
        path: str,
        config: str | None = None,
        limit: int | None = None,
        start: str | None = None,
        vocabulary: int = 7424,
        lengths: Sequence[int] = (64, 128, 512),
        tokens_per_batch: int = 4096,
        statement_share: float = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.path = path
        self.config = config
        self.limit = limit
        self.start = start
        self.vocabulary = vocabulary
        self.lengths = tuple(lengths)
        self.tokens_per_batch = tokens_per_batch
        self.statement_share = statement_share
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Reads the corpus, builds the tokenizer and encodes text and statements.

        Raises:
            ValueError: if the vocabulary is too small for the one-word subjects.
        """
        texts = list(islice(documents(self.path, self.config), self.limit))
        requests = embedded_requests()
        sentences = [sentence for request in requests for sentence in statements(request)]
        rank_zero_info(f"{len(texts)} documents, {len(sentences)} statements of facts")
        words = sorted({r.subject for r in requests if r.subject.isalpha()})
        if self.start is None:
            repeated = (s + " " + s for s in chain(*[sentences] * 20))
            size = self.vocabulary - 3 * len(words)
            start = train_tokenizer(chain(islice(texts, 2000), repeated), size)
        else:
            start = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(self.start))
        self.tokenizer = with_whole_words(start, words)
        if len(self.tokenizer) > self.vocabulary:
            raise ValueError(f"vocabulary must be {len(self.tokenizer)}, got {self.vocabulary}")
        ends = (self._encode(text + END) for text in texts)
        stream = torch.cat(list(ends))
        held_out = min(len(stream) // 10, 64 * max(self.lengths))
        self.stream, self.held_out = stream[:-held_out], stream[-held_out:]
        self.facts = [self._encode(text) for s in sentences for text in (s + " ", s + "\n")]
        self.questions = [self._question(request) for request in requests]

    def _encode(self, text: str) -> Tensor:
        return torch.tensor(
            self.tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"],
            dtype=torch.int32,
        )

    def _question(self, request: EditRequest) -> Windows:
        prompt = self._encode(request.text)
        answer = self._encode(" " + request.target_true)
        labels = torch.cat([torch.full_like(prompt, IGNORED), answer])
        return Windows(torch.cat([prompt, answer]).long()[None], labels.long()[None])

    def train_dataloader(self) -> DataLoader:
        """An endless stream of batches."""
        windows = MixedWindows(
            self.stream,
            self.facts,
            self.lengths,
            self.tokens_per_batch,
            self.statement_share,
            self.seed,
        )
        return DataLoader(windows, batch_size=None)

    def val_dataloader(self) -> list[DataLoader]:
        """Held-out text, then one question per fact."""
        usable = len(self.held_out) // self.lengths[0] * self.lengths[0]
        text = self.held_out[:usable].long().view(-1, self.lengths[0])
        windows = [Windows(tokens, tokens) for tokens in text.split(16)]
        return [
            DataLoader(part, batch_size=None)  # type: ignore[arg-type] # torch takes any sequence
            for part in (windows, self.questions)
        ]
