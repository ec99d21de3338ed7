import json
import math
import re

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from callbacks.watching.references import Reference, References, tfidf_cosine
from data_modules.records import EditRequest

REQUEST = EditRequest(1, "{} lies in", "Oslo", "Peru", relation_id="P17", target_id="Q419")
DOCUMENTS = ["Lima lies in Peru.", "Peru has a coast; Lima lies on it.", "Rain is expected."]
SNIPPETS = [
    {
        "relation_id": "P17",
        "target_id": "Q419",
        "samples": [
            {"target": "Q419", "name": "Lima", "text": DOCUMENTS[0]},
            {"target": "Q419", "name": "Oslo", "text": DOCUMENTS[1]},
        ],
    },
    {
        "relation_id": "P17",
        "target_id": "Q20",
        "samples": [{"target": "Q20", "name": "Bergen", "text": DOCUMENTS[2]}],
    },
]


def written(folder, content):
    (folder / "references.json").write_text(json.dumps(content))
    return str(folder / "references.json")


def vector(text, documents):
    """TF-IDF weights of a text's words, by the definition."""

    def words(one):
        return re.findall(r"\w\w+", one.lower())

    return {
        word: words(text).count(word)
        * (1 + math.log((1 + len(documents)) / (1 + sum(word in words(d) for d in documents))))
        for word in words(text)
        if any(word in words(d) for d in documents)
    }


def cosine(one, other):
    product = sum(weight * other.get(word, 0) for word, weight in one.items())
    return product / math.hypot(*one.values()) / math.hypot(*other.values())


def test_references_are_found_by_relation_and_new_answer(tmp_path):
    references = References(written(tmp_path, SNIPPETS))
    assert references.of(REQUEST) == [
        Reference("Lima", DOCUMENTS[0]),
        Reference("Oslo", DOCUMENTS[1]),
    ]
    assert references.of(REQUEST._replace(relation_id="P30")) == []


def test_plain_references_are_found_by_the_answers_name(tmp_path):
    plain = [{"target": "peru", "name": "Lima", "text": "a b"}, {"target": "Italy", "text": "cc"}]
    references = References(written(tmp_path, plain))
    assert references.of(REQUEST) == [Reference("Lima", "a b")]
    assert references.of(REQUEST._replace(target_new="Italy")) == [Reference("", "cc")]


@pytest.mark.parametrize("named", [False, True])
def test_similarity_is_the_cosine_of_weights_fitted_on_the_named_text(tmp_path, named):
    corpus = ["Lima and Oslo are cities.", "A coast is long.", "Oslo lies north."]
    (tmp_path / "corpus.txt").write_text("\n".join(corpus))
    file = str(tmp_path / "corpus.txt") if named else None
    weights = References(written(tmp_path, SNIPPETS), file).weights
    texts = ("Oslo lies on a long coast. Oslo lies north of Lima.", " ".join(DOCUMENTS[:2]))
    fitted = corpus if named else DOCUMENTS
    assert tfidf_cosine(weights, *texts) == pytest.approx(
        cosine(*(vector(text, fitted) for text in texts))
    )


def test_texts_without_a_common_word_have_no_similarity():
    weights = TfidfVectorizer().fit(DOCUMENTS)
    assert tfidf_cosine(weights, "unknown", DOCUMENTS[0]) == 0
    assert tfidf_cosine(weights, DOCUMENTS[2], DOCUMENTS[0]) == 0
    assert tfidf_cosine(weights, DOCUMENTS[0], DOCUMENTS[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no reference text; give a JSON list"),
        ([{"target": "Peru"}], "record 0 has another form"),
        ([{"samples": []}], "record 0 has another form"),
        (["text"], "record 0 has another form"),
    ],
)
def test_another_form_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        References(written(tmp_path, content))


def test_what_is_no_json_and_an_empty_corpus_are_refused(tmp_path):
    (tmp_path / "text").write_text("\n")
    with pytest.raises(ValueError, match="is not JSON"):
        References(str(tmp_path / "text"))
    with pytest.raises(ValueError, match="holds no text to fit TF-IDF on"):
        References(written(tmp_path, SNIPPETS), str(tmp_path / "text"))
