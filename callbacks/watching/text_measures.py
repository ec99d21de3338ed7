"""Entropy of a text's n-grams, and NLTK's words, as in ROME's evaluation."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from scipy.stats import entropy

NO_NLTK = "n-gram entropy counts the words of NLTK, which is not installed: pip install nltk"
NO_PUNKT = (
    "nltk_data must be false, or NLTK's data of sentence ends must be installed, which are not: "
    "python -m nltk.downloader punkt_tab"
)


def ngram_entropy(words: Sequence[Any]) -> float:
    """Entropy in bits of the bigrams, and twice that of the trigrams, divided by three.

    This is the mean of both with ROME's weights 2/3 and 4/3. A text without n-grams has entropy 0.
    """
    bigrams, trigrams = (
        Counter(zip(*(words[at:] for at in range(n)), strict=False)) for n in (2, 3)
    )
    return (_bits(bigrams) + 2 * _bits(trigrams)) / 3


def _bits(counts: Counter) -> float:
    return float(entropy(list(counts.values()), base=2)) if counts else 0.0


def require_nltk(data: bool) -> None:
    """Refuses a run without the library that it will need.

    Args:
        data: whether NLTK's own data are needed too.

    Raises:
        ModuleNotFoundError: if NLTK is not installed.
        FileNotFoundError: if its data are not.
    """
    if find_spec("nltk") is None:
        raise ModuleNotFoundError(NO_NLTK)
    if data:
        nltk_words("One. Two.", data)


def nltk_words(text: str, data: bool = False) -> list[str]:
    """NLTK's words of a text: sentences first, then the Penn Treebank's words of each.

    Args:
        text: to split.
        data: find sentences with NLTK's data of English, as ``nltk.word_tokenize`` does. Without
            them the same algorithm knows no abbreviations, and the point of ``Dr.`` is a word.

    Raises:
        FileNotFoundError: if the data are needed and missing.
    """
    import nltk

    if data:
        try:
            return list(nltk.word_tokenize(text))
        except LookupError as error:
            raise FileNotFoundError(NO_PUNKT) from error
    words = nltk.NLTKWordTokenizer().tokenize
    sentences = nltk.PunktSentenceTokenizer().tokenize(text)
    return [word for sentence in sentences for word in words(sentence)]
