import json
from itertools import islice

import pytest
import torch

from data_modules.embedded import embedded_requests
from data_modules.pretraining_windows import (
    MixedWindows,
    PretrainingDataModule,
    statements,
    train_tokenizer,
    with_whole_words,
)

TEXTS = ["The quick brown fox jumps over the lazy dog in the river city."] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(TEXTS), 300)


def mixed(share: float, seed: int = 0) -> MixedWindows:
    stream = torch.arange(1000, 3000)
    facts = [torch.tensor([1, 2, 3, 4, 5]), torch.tensor([6, 7])]
    return MixedWindows(stream, facts, (8, 16), 64, share, seed)


def test_a_tokenizer_gives_back_its_text(tokenizer):
    text = "Ünïcode, the brown fox ½ 7 times."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_whole_words_are_one_token_where_text_begins(tokenizer):
    words = ["Riverside", "Foxes", "River", "Zürich"]
    assert all(len(tokenizer(word)["input_ids"]) > 1 for word in words)
    extended = with_whole_words(tokenizer, words)
    assert all(len(extended(word)["input_ids"]) == 1 for word in words)
    assert extended.decode(extended("Riverside is")["input_ids"]) == "Riverside is"


def test_whole_words_leave_the_old_tokens_alone(tokenizer):
    extended = with_whole_words(tokenizer, ["Riverside"])
    for text in (*TEXTS[:1], "rivers"):
        assert extended(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_text_windows_are_pieces_of_the_stream():
    for window in islice(mixed(0.0), 20):
        assert window.tokens.numel() == 64
        assert (window.tokens.diff(dim=1) == 1).all()
        assert torch.equal(window.tokens, window.labels)


def test_statement_windows_hold_whole_facts_in_the_shortest_length():
    for window in islice(mixed(1.0), 20):
        assert window.tokens.shape == (8, 8)
        for row in window.tokens.tolist():
            facts = [token for token in row if token < 1000]
            begins = [n for n, token in enumerate(facts) if token in (1, 6)]
            assert not facts or begins[0] == 0
            assert set(facts) <= set(range(1, 8))


def test_the_seed_decides_the_batches():
    first, again, other = ([w.tokens for w in islice(mixed(0.5, seed), 5)] for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=True)
    )


def test_statements_are_the_fact_in_every_wording():
    request = embedded_requests()[0]
    found = statements(request)
    assert len(found) == 1 + len(request.paraphrases)
    assert all(s.endswith(f" {request.target_true}.") and request.subject in s for s in found)


def test_a_corpus_becomes_windows_and_questions(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": f"{n} {text}"}) + "\n" for n, text in enumerate(TEXTS * 20))
    )
    module = PretrainingDataModule(
        str(corpus), vocabulary=4096, lengths=(16, 32), tokens_per_batch=64
    )
    module.setup("fit")
    assert len(module.tokenizer) <= 4096
    batch = next(iter(module.train_dataloader()))
    assert batch.tokens.numel() == 64
    _, questions = module.val_dataloader()
    request, window = embedded_requests()[0], next(iter(questions))
    answer = window.tokens[window.labels >= 0]
    assert module.tokenizer.decode(answer) == f" {request.target_true}"


def test_a_vocabulary_too_small_for_the_subjects_is_refused(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXTS[0])
    with pytest.raises(ValueError, match="vocabulary must be"):
        PretrainingDataModule(str(corpus), vocabulary=2000).setup("fit")
