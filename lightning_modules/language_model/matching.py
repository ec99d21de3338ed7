"""Whether a generated text matches an accepted answer, by each task's own rule."""

import re
import string
from collections import Counter
from collections.abc import Sequence

WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
HARNESS_ARTICLES = re.compile(r"\b(?:The |the |An |A |a |an )")
SQUAD_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def nq_open(said: str, answers: Sequence[str]) -> dict[str, float]:
    """Exact match with one of the answers, ignoring case, punctuation and articles."""
    return {"nq_open": float(_bare(said.strip()) in map(_bare, answers))}


def _bare(text: str) -> str:
    return HARNESS_ARTICLES.sub("", text).lower().translate(WITHOUT_PUNCTUATION)


def squad_v2(said: str, answers: Sequence[str]) -> dict[str, float]:
    """SQuAD 2.0's exact match and word F1, the best over the answers.

    If the passage holds no answer, only an empty text is correct.
    """
    golds = [gold for gold in map(squad_words, answers) if gold] or [[]]
    words = squad_words(said)
    return {
        "squad_v2_exact_match": float(words in golds),
        "squad_v2_f1": max(word_f1(words, gold) for gold in golds),
    }


def squad_words(text: str) -> list[str]:
    """Words of a text in lower case, without punctuation and articles."""
    return SQUAD_ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


def begins_with(said: str, answer: str) -> bool:
    """Whether a text begins with an answer, word by word, ignoring case and punctuation."""
    words = _words(answer)
    return bool(words) and _words(said)[: len(words)] == words


def names(said: str, answer: str) -> bool:
    """Whether a text holds an answer's words, one after another, ignoring case and punctuation."""
    words, held = _words(answer), _words(said)
    return bool(words) and any(held[at : at + len(words)] == words for at in range(len(held)))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def word_f1(words: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall; if a text is empty, whether both are."""
    if not words or not gold:
        return float(words == gold)
    return 2 * sum((Counter(words) & Counter(gold)).values()) / (len(words) + len(gold))


MATCHES = {"nq_open": nq_open, "squad_v2": squad_v2}
