from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_modules.records import WatchedText
from lightning_modules.key_statistics import (
    KeyStatistics,
    load_second_moment,
    pack,
    statistics_file,
    unpack,
)
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.loading import EMBEDDED, fingerprint, load
from tests.tiny import LAYERS, save_tiny

WINDOW = 7
TEXTS = [
    "Rome is the capital of Italy, a country in the south.",
    "Rome",
    "The mother tongue of Danielle Darrieux is French, and she lived in Paris for a long time.",
    "It was winter.",
    "Japanese and Korean are spoken north of the island where the tower was located.",
]
BATCHES = [WatchedText([0, 1, 2], TEXTS[:3]), WatchedText([3, 4], TEXTS[3:])]


def naive_moment(lm, tokenizer, layer: int, texts: list[str] = TEXTS) -> np.ndarray:
    """Mean of the keys' outer products, one piece of text after another, no padding."""
    total, count = np.zeros((48, 48)), 0
    for text in texts:
        tokens = tokenizer(text)["input_ids"]
        for at in range(0, len(tokens), WINDOW):
            seen = []
            handle = output_map(lm, layer).register_forward_pre_hook(
                lambda module, args, seen=seen: seen.append(args[0])
            )
            lm(torch.tensor([tokens[at : at + WINDOW]]))
            handle.remove()
            for key in seen[0].reshape(-1, 48).double().numpy():
                total += np.outer(key, key)
                count += 1
    return total / count


class Counter(L.Callback):
    """How many batches were begun."""

    batches = 0

    def on_test_batch_start(self, *_: object) -> None:
        self.batches += 1


def run(folder: Path, batches=BATCHES, **options: object) -> tuple[KeyStatistics, dict, int]:
    """The module, its figures, and how many batches it took, after a real test run."""
    module = KeyStatistics(str(folder), window=WINDOW, output=str(folder / "moments"), **options)
    counter = Counter()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[counter], enable_progress_bar=False
    )
    (figures,) = trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)
    return module, figures, counter.batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("lm"), "llama", bos=True)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gptj", "gemma2"])
def test_moments_are_the_mean_over_all_tokens(tmp_path, family):
    module, figures, _ = run(save_tiny(tmp_path, family, bos=True))
    lm, tokenizer = load(str(tmp_path))
    count = sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    assert module.counted == figures["tokens"] == count
    for layer in range(LAYERS):
        moment = load_second_moment(
            str(tmp_path / "moments"), str(tmp_path), fingerprint(lm, tokenizer), layer
        )
        assert moment.dtype == torch.float32
        assert torch.equal(moment, moment.T)
        expected = naive_moment(lm, tokenizer, layer)
        np.testing.assert_allclose(moment, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_only_the_layers_asked_for_are_counted(folder):
    run(folder, layers=[2, 0])
    lm, tokenizer = load(str(folder))
    place = str(folder / "moments"), "tiny", fingerprint(lm, tokenizer)
    for layer in (0, 2):
        expected = naive_moment(lm, tokenizer, layer)
        moment = load_second_moment(*place, layer)
        np.testing.assert_allclose(moment, expected, rtol=1e-4, atol=1e-5 * expected.max())
    with pytest.raises(ValueError, match=r"has no layer 1, but layer\.0, layer\.2"):
        load_second_moment(*place, 1)


def test_counting_ends_when_the_tokens_are_spent(folder):
    texts = [WatchedText([n], [text]) for n, text in enumerate(TEXTS * 10)]
    module, figures, steps = run(folder, texts, tokens=30)
    lengths = [len(module.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert sum(lengths[: steps - 1]) < 30 <= sum(lengths[:steps]) == module.counted
    assert figures["tokens"] == module.counted
    expected = naive_moment(module.lm, module.tokenizer, 1, TEXTS[:steps])
    moment = load_second_moment(
        str(folder / "moments"), "tiny", fingerprint(module.lm, module.tokenizer), 1
    )
    np.testing.assert_allclose(moment, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_statistics_of_another_model_are_refused(folder):
    run(folder, layers=[0])
    with pytest.raises(ValueError, match=r"moments holds key statistics of .* with other weights"):
        load_second_moment(str(folder / "moments"), "other", "0123456789ab", 0)


def test_missing_statistics_name_the_command_that_makes_them(tmp_path):
    command = (
        r"python train.py test --config key-statistics.yaml --model.lm org/lm "
        r"--model.layers \[3\], or leave them out by --model.second_moment identity$"
    )
    with pytest.raises(FileNotFoundError, match=command):
        load_second_moment(str(tmp_path / "none"), "org/lm", "0123456789ab", 3)


def test_place_of_statistics_tells_models_and_weights_apart():
    given = statistics_file("here.safetensors", "embedded", "0" * 32)
    assert given == Path("here.safetensors")
    assert statistics_file(None, "embedded", "0" * 32).parent == EMBEDDED
    places = {
        statistics_file(None, lm, model * 32)
        for lm in ("org/lm", "/org/lm2")
        for model in ("0", "1")
    }
    assert len(places) == 4
    assert {len(place.parts) for place in places} == {3}


@pytest.mark.parametrize("size", [1, 2, 48, 1000])
def test_packed_matrix_comes_back(size):
    keys = torch.randn(size, 3)
    moment = keys @ keys.T
    assert pack(moment).shape == (size * (size + 1) // 2,)
    assert torch.equal(unpack(pack(moment)), (moment.tril() + moment.tril(-1).T))
    assert pack(moment.double()).dtype == torch.float32
