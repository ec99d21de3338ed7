"""Fluency and consistency of sampled texts after an edit, as in ROME's evaluation."""

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b
from statistics import fmean

import lightning as L
import torch

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.generation import prompt_room
from lightning_modules.language_model.text_sampling import sample_texts
from lightning_modules.language_model.tokens import Span, encode

from .references import Reference, References, tfidf_cosine
from .text_measures import ngram_entropy, nltk_words, require_nltk
from .written_texts import WrittenTexts


class FluencyMetrics(WrittenTexts):
    """Samples a text from each generation prompt and measures fluency and consistency.

    ``ngram_entropy`` is the mean entropy of the texts' bigrams and trigrams, prompts included.
    ``reference_score`` is the TF-IDF cosine of all texts together and all reference texts of the
    new answer together; ``essence_perplexity`` the perplexity of the reference texts that are about
    the subject itself. All follow ROME's evaluation. Only CounterFact's original records have
    generation prompts. They are not put through a chat template. Each text has random numbers of
    its own, by the run's seed, the request and the prompt's place, so that the same weights always
    write the same text.

    Args:
        every_n_edits: edits from one measurement to the next.
        references: a JSON file of reference texts, such as ROME's ``attribute_snippets.json``;
            without it only the entropy is measured.
        corpus: a text file, one document per line, to fit TF-IDF on; the references if null.
        length: tokens of a text with its prompt, and of the essence.
        top_k: number of most probable tokens that each token is drawn from.
        nltk_data: split sentences with NLTK's own data, which must be installed.

    Raises:
        ModuleNotFoundError: if NLTK is not installed.
        FileNotFoundError: if its data are needed and missing.
        ValueError: if a number is not positive, or a corpus is given without references.
    """

    def __init__(
        self,
        every_n_edits: int = 1,
        references: str | None = None,
        corpus: str | None = None,
        length: int = 100,
        top_k: int = 5,
        nltk_data: bool = False,
    ) -> None:
        sizes = {"every_n_edits": every_n_edits, "length": length - 1, "top_k": top_k}
        for name, number in sizes.items():
            if number <= 0:
                least = "greater than 1" if name == "length" else "positive"
                raise ValueError(f"{name} must be {least}, got {number + (name == 'length')}")
        if corpus is not None and references is None:
            raise ValueError(f"corpus {corpus!r} weighs the words of references; name these too")
        require_nltk(nltk_data)
        self.every_n_edits = every_n_edits
        self.length = length
        self.top_k = top_k
        self.nltk_data = nltk_data
        self.files = (references, corpus)
        self.references: References | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Reads the references; checks early that there are prompts and the model can go on.

        Raises:
            ValueError: if no request has generation prompts, or texts are too long for the model.
        """
        prompt_room(pl_module.lm, self.length - 1)
        requests = trainer.datamodule.requests  # type: ignore[attr-defined] # set by Lightning
        if not any(request.generation for request in requests):
            raise ValueError(
                "FluencyMetrics continues generation_prompts, and no request has any: give "
                "CounterFact's original records by --data.path, or leave the callback out"
            )
        file, corpus = self.files
        if file is not None and self.references is None:
            self.references = References(file, corpus)

    def measured(self, editor: Editor, requests: Sequence[EditRequest]) -> list[dict[str, float]]:
        """Measures of each request's texts; none of one without generation prompts."""
        return [self.scores(editor, request) for request in requests]

    def scores(self, editor: Editor, request: EditRequest) -> dict[str, float]:
        """The same of one request."""
        if not request.generation:
            return {}
        texts = self.written(editor, request)
        entropies = [ngram_entropy(nltk_words(text, self.nltk_data)) for text in texts]
        found = {"ngram_entropy": fmean(entropies)}
        references = self.references.of(request) if self.references is not None else []
        if self.references is not None and references:
            whole = " ".join(reference.text for reference in references)
            found["reference_score"] = tfidf_cosine(self.references.weights, " ".join(texts), whole)
        return found | self.essence(editor, request, references)

    def written(self, editor: Editor, request: EditRequest) -> list[str]:
        """A text from each generation prompt; devices that share an edit share the work."""
        rank, devices = editor.share
        numbers = range(rank, len(request.generation), devices)
        draws = [self.draws(f"{editor.seed} {request.identity} {number}") for number in numbers]
        own: list[str] = []
        if draws:
            prompts = [request.generation[number] for number in numbers]
            made = sample_texts(
                editor.lm, editor.tokenizer, prompts, torch.stack(draws), self.top_k
            )
            own = [as_published(text) for text in made]
        texts = editor.share.joined(dict(zip(numbers, own, strict=True)), editor.device)
        return [texts[number] for number in range(len(request.generation))]

    def draws(self, name: str) -> torch.Tensor:
        """Random numbers of a text, ``(t,)`` in [0, 1), the same for the same name."""
        seed = int.from_bytes(blake2b(name.encode(), digest_size=7).digest())
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.length, generator=generator, dtype=torch.float64, device="cpu")

    def essence(
        self, editor: Editor, request: EditRequest, references: Sequence[Reference]
    ) -> dict[str, float]:
        """Perplexity of the references about the subject, if there are any.

        As published, the sum of the negative log-likelihoods is divided by the number of all
        tokens, though the first has none.
        """
        texts = [reference.text for reference in references if reference.name == request.subject]
        tokens = encode(editor.tokenizer, " ".join(texts)).tokens[: self.length]
        if len(tokens) < 2:
            return {}
        log_prob = editor.judging.once([Span(tokens, 1)]).log_prob
        return {"essence_perplexity": float((-log_prob / len(tokens)).exp())}


def as_published(text: str) -> str:
    """A text as ROME's generator returns it: Unicode's NFKD, and no empty lines."""
    return unicodedata.normalize("NFKD", text).replace("\n\n", " ")
