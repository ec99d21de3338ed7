import json
from collections import Counter

import pytest

from data_modules.mixture import ME_PPL, MixtureDataModule, quotas, sentences_of

WORDS = "one two three four five six seven eight nine ten eleven twelve"


@pytest.fixture
def corpora(tmp_path):
    """Two corpora of forty sentences each, which begin with the corpus' name."""
    for name in ("C4", "Wikipedia"):
        texts = [
            {"text": f"{name} {n} {WORDS}. Too short. {name} {n}a {WORDS}!"} for n in range(20)
        ]
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, texts)))
    return {name: str(tmp_path / f"{name}.json") for name in ("C4", "Wikipedia")}


def drawn(corpora, file, **options):
    data = MixtureDataModule(corpora, watch=str(file), **options)
    data.prepare_data()
    data.setup("validate")
    return data


def test_corpora_stand_in_the_sample_by_their_shares(corpora, tmp_path):
    file = tmp_path / "sample.json"
    data = drawn(corpora, file, sentences=21)
    rows = json.loads(file.read_text())
    assert Counter(row["Corpus"] for row in rows) == {"C4": 15, "Wikipedia": 6}  # 0.25 and 0.1
    assert all(row["Text"].startswith(row["Corpus"]) for row in rows)
    assert len({row["Text"] for row in rows}) == 21
    assert sorted(text for _, text in data.watched) == sorted(row["Text"] for row in rows)


def test_a_sample_is_drawn_once_and_repeats_with_its_seed(corpora, tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        drawn(corpora, file, sentences=10, draw=seed)
    texts = [file.read_text() for file in files]
    assert texts[0] == texts[1] != texts[2]
    drawn(corpora, files[2], sentences=5, draw=1)
    assert files[2].read_text() == texts[2]


def test_shares_of_me_ppl_give_its_published_numbers():
    published = {"OpenWebText": 5000, "C4": 2500, "Wikipedia": 1000, "cc_news": 700,
                 "Roots": 500, "Gutenberg": 250, "BookCorpus": 50}  # fmt: skip
    assert quotas(ME_PPL, ME_PPL, 10_000) == published


@pytest.mark.parametrize("total", [1, 7, 99])
def test_quotas_add_up_and_are_off_by_less_than_one(total):
    found = quotas(ME_PPL, ME_PPL, total)
    assert sum(found.values()) == total
    assert all(abs(count - total * ME_PPL[name]) < 1 for name, count in found.items())


def test_a_sentence_ends_at_its_mark_and_at_its_line():
    text = f'He said: "{WORDS}." {WORDS.title()}? {WORDS}\n{WORDS}'
    found = list(sentences_of(text, (11, 20)))
    assert [len(sentence.split()) for sentence in found] == [14, 12, 12, 12]
    assert found[3] == WORDS


def test_shares_of_the_published_subset(shared_data):
    rows = json.loads((shared_data / "me_ppl" / "ME-PPL_50.json").read_text())
    counted = Counter(row["Corpus"] for row in rows)
    wanted = quotas(ME_PPL, ME_PPL, 50)
    assert all(abs(counted[name] - count) <= 2 for name, count in wanted.items())


def test_too_few_sentences_are_reported_with_their_number(corpora, tmp_path):
    with pytest.raises(ValueError, match=r"C4 .* has 40 sentences of 11 to 480 words .* 71 are"):
        drawn(corpora, tmp_path / "sample.json", sentences=100)


@pytest.mark.parametrize("names", [{}, {"Pile": "pile.json"}])
def test_a_corpus_without_a_share_is_refused(names):
    with pytest.raises(ValueError, match="have no share"):
        MixtureDataModule(names)
