import json
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader

from data_modules.key_text import TextDataModule
from data_modules.records import WatchedText
from lightning_modules.editing.second_moments import load_second_moment
from lightning_modules.jobs.key_statistics import KeyStatistics
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.loading import fingerprint
from tests.benchmarks.key_statistics import padded_moment, windows_of
from tests.lightning_modules.language_model.test_experts import slow_key
from tests.tiny import LAYERS, save_tiny, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[3]
WINDOW = 7
WIDTH = 48
TEXTS = [
    "Rome is the capital of Italy, a country in the south.",
    "Rome",
    "The mother tongue of Danielle Darrieux is French, and she lived in Paris for a long time.",
    "It was winter.",
    "Japanese and Korean are spoken north of the island where the tower was located.",
] * 4
BATCHES = [WatchedText(list(range(n, n + 4)), TEXTS[n : n + 4]) for n in range(0, 20, 4)]


def naive_moment(module: KeyStatistics, layer: int) -> np.ndarray:
    """Mean of the keys' outer products in float64, each window alone, whole model, no padding."""
    total, count = np.zeros((WIDTH, WIDTH)), 0
    for window in windows_of(module, TEXTS):
        seen = []
        handle = output_map(module.lm, layer).register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        module.lm(torch.tensor([window]))
        handle.remove()
        for key in seen[0].reshape(-1, WIDTH).double().numpy():
            total += np.outer(key, key)
            count += 1
    return total / count


def run(folder: Path, batches=BATCHES, tokens=300, **options: object) -> tuple[KeyStatistics, dict]:
    """The module and its figures after a real test run."""
    module = KeyStatistics(
        str(folder), tokens=tokens, window=WINDOW, output=str(folder / "moments"), **options
    )
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    (figures,) = trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)
    return module, figures


def stored_moment(module: KeyStatistics, layer: int) -> torch.Tensor:
    """What an editor would load."""
    model = fingerprint(module.lm, module.tokenizer)
    return load_second_moment(module.output, module.lm_name, model, layer)


def distance(found: torch.Tensor, expected: np.ndarray) -> float:
    """Relative difference of two moments."""
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("lm"), "llama", bos=True)


@pytest.mark.parametrize(
    ("family", "bos"),
    [("gpt2", False), ("opt", True), ("gptj", False), ("gemma2", True), ("mistral", True)],
)
def test_moments_are_the_mean_over_all_tokens(tmp_path, family, bos):
    module, figures = run(save_tiny(tmp_path, family, bos))
    assert module.counted == figures["tokens"] == 300
    for layer in range(LAYERS):
        moment = stored_moment(module, layer)
        assert moment.dtype == torch.float32
        assert torch.equal(moment, moment.T)
        assert distance(moment, naive_moment(module, layer)) < 1e-6


def test_moments_of_texts_that_begin_at_the_second_position_are_of_another_model(tmp_path):
    folder = save_tiny(tmp_path, "gptj")
    plain, _ = run(folder)
    expected = stored_moment(plain, 1)
    module, _ = run(folder, first_position=1)
    moment = stored_moment(module, 1)
    assert distance(moment, naive_moment(module, 1)) < 1e-6
    assert distance(moment, expected.numpy()) > 1e-4
    with pytest.raises(ValueError, match="other weights"):
        stored_moment(plain, 1)


def test_one_pass_for_all_layers_equals_a_padded_pass_for_each(folder):
    module, _ = run(folder)
    for layer in range(LAYERS):
        expected = padded_moment(module.lm, windows_of(module, TEXTS), layer).numpy()
        assert distance(stored_moment(module, layer), expected) < 1e-6


def test_every_window_begins_as_a_text_does(folder):
    module, _ = run(folder)
    windows = windows_of(module, TEXTS)
    assert module.beginning == module.tokenizer("")["input_ids"] == [module.tokenizer.bos_token_id]
    assert all(window[0] == module.beginning[0] for window in windows)
    assert max(map(len, windows)) == WINDOW


def test_only_the_layers_asked_for_are_counted_and_nothing_above_runs(folder, monkeypatch):
    module = KeyStatistics(str(folder), layers=[1, 0], tokens=60, window=WINDOW)
    module.configure_model()
    with monkeypatch.context() as patch:
        patch.setattr(module.lm.model.layers[2], "forward", None)
        module.output = str(folder / "two")
        L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        ).test(module, DataLoader(BATCHES, batch_size=None), verbose=False)
    for layer in (0, 1):
        assert distance(stored_moment(module, layer), naive_moment(module, layer)) < 1e-6
    with pytest.raises(ValueError, match=r"has no layer 2, but layer\.0, layer\.1"):
        stored_moment(module, 2)


def test_counting_ends_at_the_very_token(folder):
    for tokens in (61, 100):
        module, figures = run(folder, [WatchedText([n], [t]) for n, t in enumerate(TEXTS)], tokens)
        assert module.counted == figures["tokens"] == tokens
        assert distance(stored_moment(module, 1), naive_moment(module, 1)) < 1e-6


@pytest.mark.parametrize("longest", [3, 30])
def test_less_than_a_tenth_is_padding(folder, longest):
    texts = [" ".join(["Rome"] * (1 + n * 7 % longest)) for n in range(3000)]
    batches = [WatchedText(list(range(n, n + 60)), texts[n : n + 60]) for n in range(0, 3000, 60)]
    module, _ = run(folder, batches, 5000)
    assert 5000 == module.counted <= module.computed < 5000 / 0.9


def test_no_pass_holds_more_tokens_than_asked_for(folder, monkeypatch):
    sizes = []
    add = KeyStatistics.add
    monkeypatch.setattr(
        KeyStatistics,
        "add",
        lambda self, rows: (sizes.append(len(rows) * max(map(len, rows))), add(self, rows)),
    )
    run(folder, batch_tokens=32)
    assert max(sizes) <= 32 < sum(sizes)


def test_the_file_says_how_it_was_made_and_how_far_it_converged(folder):
    module, _ = run(folder)
    with safe_open(module.output, "pt") as stored:
        facts = stored.metadata()
    about = module.about[2]
    assert facts["lm"] == str(folder)
    assert all(f'"{name}"' in facts["layer.2"] for name in about)
    assert (about["tokens"], about["window"], about["dtype"]) == (300, WINDOW, "float32")
    eigenvalues = np.linalg.eigvalsh(stored_moment(module, 2).double().numpy())
    assert about["condition"] == pytest.approx(eigenvalues[-1] / eigenvalues[0], rel=1e-3)
    second, last = about["agreement"]
    assert 150 <= second < 150 + WINDOW
    assert last == 300


def test_agreement_is_the_cosine_of_whitened_sample_keys(folder):
    half, _ = run(folder, tokens=150)
    smaller = stored_moment(half, 0).double()
    whole, _ = run(folder, tokens=300)
    larger, keys = stored_moment(whole, 0).double(), whole.convergence[0].sample.T
    before, after = (torch.linalg.solve(moment, keys) for moment in (smaller, larger))
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=0).mean()
    # the half also holds the rest of its last window
    assert whole.about[0]["agreement"][300] == pytest.approx(float(cosine), abs=0.05)
    assert 0 < whole.about[0]["agreement"][300] < 1


def test_halves_are_compared_at_each_doubling(folder):
    module, _ = run(folder)
    halves = module.about[1]["halves"]
    *_, before, last = halves
    assert last == 300
    earlier, _ = run(folder, tokens=before)
    first, whole = naive_moment(earlier, 1), naive_moment(module, 1)
    second = (300 * whole - before * first) / (300 - before)
    expected = np.linalg.norm(first - second) / np.linalg.norm(whole)
    assert halves[last] == pytest.approx(expected, rel=1e-4)


def test_the_window_is_the_models_up_to_1024_tokens(folder):
    module = KeyStatistics(str(folder), tokens=100)
    module.configure_model()
    assert module.window == 128
    module.window = None
    module.lm.config.max_position_embeddings = 4096
    module.lm, lm = None, module.lm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lightning_modules.jobs.key_statistics.load", lambda *_: (lm, module.tokenizer)
        )
        module.configure_model()
    assert module.window == 1024


def test_a_corpus_shorter_than_the_budget_is_said_so(folder):
    with pytest.warns(UserWarning, match=r"the corpus ended after \d+ of 100000 tokens"):
        module, figures = run(folder, tokens=100_000)
    assert figures["tokens"] == sum(map(len, windows_of(module, TEXTS))) > 300
    assert distance(stored_moment(module, 0), naive_moment(module, 0)) < 1e-6


def test_fewer_tokens_than_the_key_is_wide_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="47 tokens are too few for keys of width 48"):
        KeyStatistics(str(folder), tokens=WIDTH - 1).configure_model()
    with pytest.raises(ValueError, match=r": \d+ tokens are too few for keys of width 48"):
        run(save_tiny(tmp_path, "gpt2"), [WatchedText([0], [TEXTS[0]])])
    assert not (tmp_path / "moments").exists()


@pytest.mark.parametrize("window", [0, 1, 129])
def test_a_window_that_does_not_fit_is_refused(folder, window):
    with pytest.raises(ValueError, match=rf"window must be in \[2, 128\] tokens .* got {window}"):
        KeyStatistics(str(folder), tokens=100, window=window).configure_model()


def test_a_layer_that_does_not_exist_is_refused(folder):
    with pytest.raises(ValueError, match=r"layer must be in \[0, 3\)"):
        KeyStatistics(str(folder), layers=[0, 3]).configure_model()


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Documents of very different lengths, whose number no two devices share evenly."""
    lines = [json.dumps({"text": " ".join(TEXTS[n : n + 1 + n % 3])}) for n in range(19)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "corpus.jsonl")


def test_two_devices_count_what_one_counts(folder, corpus, tmp_path):
    for tokens in (150, 400):
        found = []
        for devices in (1, 2):
            module = KeyStatistics(
                str(folder),
                layers=[0, 2],
                tokens=tokens,
                window=WINDOW,
                output=str(tmp_path / f"{devices}"),
            )
            trainer = L.Trainer(
                accelerator="cpu",
                devices=devices,
                strategy="ddp_fork" if devices > 1 else "auto",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.test(module, TextDataModule(corpus, batch_size=2), verbose=False)
            module.configure_model()
            found.append([stored_moment(module, layer) for layer in (0, 2)])
            with safe_open(module.output, "pt") as stored:
                assert json.loads(stored.metadata()["layer.2"])["tokens"] == tokens
        for one, two in zip(*found, strict=True):
            assert distance(two, one.numpy()) < 1e-6


@pytest.mark.slow
def test_two_devices_from_the_command_line(folder, corpus, tmp_path):
    found = []
    for devices in ("1", "2"):
        options = {
            "--model.lm": str(folder),
            "--model.tokens": "300",
            "--model.output": str(tmp_path / devices),
            "--data.path": corpus,
            "--data.config": "null",
            "--trainer.accelerator": "cpu",
            "--trainer.devices": devices,
        }
        words = [word for pair in options.items() for word in pair]
        command = [sys.executable, str(ROOT / "train.py"), "test", "--config"]
        command += ["key-statistics.yaml", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "cosine of edit directions" in done.stderr
        module = KeyStatistics(str(folder), tokens=300, output=str(tmp_path / devices))
        module.configure_model()
        found.append(stored_moment(module, 1))
    assert distance(found[1], found[0].numpy()) < 1e-6


@pytest.mark.parametrize("bos", [False, True])
def test_tokens_that_the_tokenizer_puts_behind_a_text_are_no_keys(bos, tmp_path):
    moments = []
    for eos in (False, True):
        folder = save_tiny(tmp_path / str(eos), "gpt2", bos)
        tiny_tokenizer(bos, eos).save_pretrained(folder)
        module, _ = run(folder)
        assert module.beginning == [0] * bos
        moments.append(stored_moment(module, 1))
    assert torch.equal(*moments)


def naive_expert_moments(module: KeyStatistics) -> np.ndarray:
    """Mean over all tokens of ``g² k kᵀ`` of each expert of layer 1, window by window."""
    total, count = np.zeros((8, 16, 16)), 0
    for window in windows_of(module, TEXTS):
        seen = []
        handle = output_map(module.lm, 1).register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args)
        )
        module.lm(torch.tensor([window]))
        handle.remove()
        for hidden, chosen, gates in zip(*seen[0], strict=True):
            for expert, gate in zip(chosen.tolist(), gates, strict=True):
                key = (gate * slow_key(module.lm, hidden, expert)).double().numpy()
                total[expert] += np.outer(key, key)
            count += 1
    return total / count


def test_experts_have_moments_of_their_gated_keys_over_all_tokens(tmp_path):
    module, _ = run(save_tiny(tmp_path, "deepseek_v3"), layers=[0, 1])
    moments = stored_moment(module, 1)
    assert distance(moments, naive_expert_moments(module)) < 1e-5
    assert stored_moment(module, 0).shape == (WIDTH, WIDTH)  # its first layer is dense
    assert all(0.9 < figure[-1] <= 1 for figure in module.of_layers("agreement").values() if figure)
