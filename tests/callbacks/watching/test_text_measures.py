import math
from itertools import pairwise

import nltk
import pytest

from callbacks.watching import text_measures
from callbacks.watching.text_measures import ngram_entropy, nltk_words, require_nltk


def naive_entropy(items):
    shares = [items.count(item) / len(items) for item in set(items)]
    return -sum(share * math.log2(share) for share in shares)


def test_entropy_is_the_mean_with_weights_two_thirds_and_four_thirds():
    words = ["a", "b", "a", "b", "a", "c", ",", "b", "a", "b"]
    pairs = list(pairwise(words))
    triples = list(zip(words, words[1:], words[2:], strict=False))
    expected = (2 / 3 * naive_entropy(pairs) + 4 / 3 * naive_entropy(triples)) / 2
    assert ngram_entropy(words) == pytest.approx(expected)


@pytest.mark.parametrize("words", [[], ["a"], ["a"] * 9])
def test_a_text_that_says_nothing_has_no_entropy(words):
    assert ngram_entropy(words) == 0


def test_words_are_nltks_sentence_by_sentence():
    text = 'He can\'t stay. She said: "go (now)." The end'
    assert nltk_words(text) == [
        *("He", "ca", "n't", "stay", ".", "She", "said", ":", "``", "go", "(", "now", ")", "."),
        *("''", "The", "end"),
    ]
    one = "The harbour is old (2,000 years), isn't it?"
    assert nltk_words(one) == nltk.word_tokenize(one, preserve_line=True)


def test_without_data_the_point_of_an_abbreviation_is_a_word():
    assert nltk_words("He met Dr. Who.") == ["He", "met", "Dr", ".", "Who", "."]


def test_with_data_words_are_those_of_word_tokenize(monkeypatch):
    monkeypatch.setattr(nltk, "word_tokenize", lambda text: text.split("a"))
    assert nltk_words("bad", data=True) == ["b", "d"]


def test_missing_parts_are_refused_by_what_installs_them(monkeypatch):
    def missing(text):
        raise LookupError("Resource punkt_tab not found")

    monkeypatch.setattr(nltk, "word_tokenize", missing)
    require_nltk(data=False)
    with pytest.raises(FileNotFoundError, match=r"python -m nltk\.downloader punkt_tab"):
        require_nltk(data=True)
    monkeypatch.setattr(text_measures, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install nltk"):
        require_nltk(data=False)
