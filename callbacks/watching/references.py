"""Reference texts of new answers, and the text that weighs their words."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.feature_extraction.text import TfidfVectorizer

from data_modules.records import EditRequest

FORM = (
    "give a JSON list of objects with relation_id, target_id and samples, as in ROME's "
    "attribute_snippets.json, or with target, name and text"
)


class Reference(NamedTuple):
    """A text about a subject that has the answer a request would give its own.

    Attributes:
        name: the subject.
        text: about it.
    """

    name: str
    text: str


class References:
    """Reference texts, found by the relation and the new answer, and weights of their words.

    Args:
        file: a JSON list, in ROME's form or plain (``docs/data.md``).
        corpus: a text file, one document per line, to fit TF-IDF on; the references if null, as in
            ROME's evaluation.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has another form, or no text.
    """

    def __init__(self, file: str, corpus: str | None = None) -> None:
        self.texts: dict[tuple[str, ...], list[Reference]] = defaultdict(list)
        for key, reference in _read(file):
            self.texts[key].append(reference)
        own = [reference.text for found in self.texts.values() for reference in found]
        if not own:
            raise ValueError(f"{file}: holds no reference text; {FORM}")
        documents = own if corpus is None else Path(corpus).read_text("utf-8").splitlines()
        if not any(map(str.strip, documents)):
            raise ValueError(f"{corpus}: holds no text to fit TF-IDF on; give one that holds some")
        self.weights = TfidfVectorizer().fit(documents)

    def of(self, request: EditRequest) -> list[Reference]:
        """Those of the request's relation and new answer, or else of the new answer's name."""
        named = self.texts.get((request.target_new.casefold(),), [])
        return self.texts.get((request.relation_id, request.target_id), named)


def _read(file: str) -> Iterator[tuple[tuple[str, ...], Reference]]:
    """Each reference and the key that it is found by."""
    try:
        rows: Any = json.loads(Path(file).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON ({error}); {FORM}") from error
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        try:
            if "samples" in row:
                key = (row["relation_id"], row["target_id"])
                yield from ((key, Reference(s["name"], s["text"])) for s in row["samples"])
            else:
                yield (row["target"].casefold(),), Reference(row.get("name", ""), row["text"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}: record {number} has another form ({error}); {FORM}"
            ) from error


def tfidf_cosine(weights: TfidfVectorizer, text: str, reference: str) -> float:
    """Cosine of two texts' TF-IDF vectors; 0 if they share no word of the fitted text.

    Args:
        weights: fitted.
        text: to compare.
        reference: with this.
    """
    vectors = weights.transform([text, reference])  # (2, words), rows of norm 1 or 0
    return float(vectors[[0]].multiply(vectors[[1]]).sum())
