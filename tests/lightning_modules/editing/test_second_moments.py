from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lightning_modules.editing.second_moments import (
    load_second_moment,
    require_tokens,
    save_second_moments,
)
from lightning_modules.functional.second_moment import pack
from lightning_modules.language_model.loading import fingerprint, load

MODEL = "0123456789abcdef"
COMMAND = r"python train.py test --config key-statistics.yaml --model.lm org/lm --model.layers "


def moment(seed: int, size: int = 6) -> torch.Tensor:
    keys = torch.randn(size, 9, generator=torch.Generator().manual_seed(seed))
    return keys @ keys.T


def save(file: Path, *layers: int, model: str = MODEL, tokens: int = 9) -> None:
    moments = {layer: pack(moment(layer)) for layer in layers}
    save_second_moments(file, "org/lm", model, moments, {n: {"tokens": tokens} for n in layers})


def read(file: Path, layer: int = 3, model: str = MODEL) -> torch.Tensor:
    return load_second_moment(str(file), "org/lm", model, layer)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(tmp_path / "moments", 3)
    return tmp_path / "moments"


def test_moments_come_back(file):
    torch.testing.assert_close(read(file), moment(3))


def test_other_layers_of_the_same_model_stay_in_the_file(file):
    save(file, 1, tokens=7)
    torch.testing.assert_close(read(file, 3), moment(3))
    torch.testing.assert_close(read(file, 1), moment(1))
    save(file, 2, model="another")
    with safe_open(file, "pt") as stored:
        assert list(stored.keys()) == ["layer.2"]


def test_missing_statistics_name_the_command_that_makes_them(tmp_path):
    instead = r"\[3\], or leave them out with --model.second_moment identity$"
    with pytest.raises(FileNotFoundError, match=COMMAND + instead):
        read(tmp_path / "none")


def test_statistics_of_another_model_are_refused(file):
    refusal = rf"moments holds key statistics of 'org/lm' with other weights .*{COMMAND}\[3\]$"
    with pytest.raises(ValueError, match=refusal):
        read(file, model="another")


def test_a_missing_layer_is_named(file):
    with pytest.raises(ValueError, match=r"has no layer 5, but layer\.3; .*layers \[5\]"):
        read(file, 5)


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "moments")
    with pytest.raises(ValueError, match="holds key statistics of 'no model'"):
        read(tmp_path / "moments")


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_sentence_and_replaced(file, kept):
    whole = file.read_bytes()
    file.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(
        ValueError, match=rf"moments is damaged \(.*\); delete it, then .*{COMMAND}"
    ):
        read(file)
    save(file, 3)
    torch.testing.assert_close(read(file), moment(3))


def test_changed_numbers_are_noticed(file):
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"layer 3 in .* is damaged: its checksum"):
        read(file)


def test_fewer_tokens_than_the_key_is_wide_are_refused(tmp_path):
    save(tmp_path / "moments", 3, tokens=5)
    with pytest.raises(ValueError, match=r"layer 3: 5 tokens are too few for keys of width 6"):
        read(tmp_path / "moments")
    require_tokens(6, 6, "enough")


def test_an_interrupted_write_leaves_the_old_file(file, monkeypatch):
    def fail(tensors: dict, path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning_modules.editing.second_moments.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save(file, 3, 4)
    torch.testing.assert_close(read(file), moment(3))
    assert list(file.parent.iterdir()) == [file]


def test_a_file_from_before_entries_per_layer_is_read():
    model = fingerprint(*load("embedded"))
    assert load_second_moment(None, "embedded", model, 0).shape == (1280, 1280)
