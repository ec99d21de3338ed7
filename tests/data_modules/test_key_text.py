import json
from pathlib import Path

import pytest

from data_modules.key_text import DocumentShards, TextDataModule

TEXTS = [f"Document {number}." for number in range(11)]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    lines = [json.dumps({"text": text}) for text in [*TEXTS[:3], "  ", *TEXTS[3:]]]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "corpus.jsonl")


def test_documents_come_in_order_and_numbered(corpus):
    batches = list(TextDataModule(corpus, batch_size=4).test_dataloader())
    assert [batch.texts for batch in batches] == [TEXTS[:4], TEXTS[4:8], TEXTS[8:]]
    assert [n for batch in batches for n in batch.indices] == list(range(11))


def test_no_more_documents_are_read_than_the_limit(corpus):
    (batch,) = TextDataModule(corpus, limit=3).test_dataloader()
    assert batch.texts == TEXTS[:3]


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
def test_devices_share_the_corpus_in_rounds_of_the_same_size(corpus, devices):
    shards = [list(DocumentShards(corpus, None, None, 2, rank, devices)) for rank in range(devices)]
    sizes = [[len(batch.texts) for batch in shard] for shard in shards]
    assert all(size == sizes[0] for size in sizes)
    read = [
        pair
        for shard in shards
        for batch in shard
        for pair in zip(batch.indices, batch.texts, strict=True)
        if pair[0] >= 0
    ]
    assert sorted(read) == list(enumerate(TEXTS))
    fillers = [text for shard in shards for b in shard for text in b.texts if text not in TEXTS]
    assert set(fillers) <= {""}
    for number in range(len(sizes[0])):
        in_round = [index for shard in shards for index in shard[number].indices if index >= 0]
        first = 2 * devices * number
        assert sorted(in_round) == list(range(first, min(first + 2 * devices, 11)))


def test_only_as_much_is_read_as_is_asked_for(corpus, tmp_path):
    with Path(corpus).open("a") as file:
        file.write("\n" + json.dumps({"title": "no text"}))
    batches = iter(TextDataModule(corpus, batch_size=5).test_dataloader())
    assert next(batches).texts == TEXTS[:5]
    assert next(batches).texts == TEXTS[5:10]
