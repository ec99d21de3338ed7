"""Damaged files and wrong ones: each ends in one sentence, none in a traceback."""

import pickle
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from callbacks.keeping.checkpoint_files import WholeFiles
from tests.callbacks.runs import options_of, tiny_lm
from train import main

ROOT = Path(__file__).resolve().parents[2]
AGAIN = ("--ckpt_path", "last")
RUN = Path("runs/rome/version_0")
LAST = RUN / "checkpoints/last.ckpt"
QUIET = ("--trainer.enable_progress_bar", "false")


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("owned", "w"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Options of a short run, a folder with its model and data, and one in which it ended early."""
    source = tmp_path_factory.mktemp("source")
    tiny_lm(source / "lm")
    options = [*options_of("lm", source, edits=3), *QUIET]
    options = [option.replace(f"{source}/", "") for option in options]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source)
        main(["fit", *options, "--trainer.max_steps", "2"])
    return source, options


@pytest.fixture
def said(made, tmp_path, monkeypatch, capsys):
    """Damages a copy of the folder, runs ``train.py`` there; gives the sentence it ends with."""

    def run(damage, *arguments):
        shutil.copytree(made[0], tmp_path / "work")
        monkeypatch.chdir(tmp_path / "work")
        damage()
        verb, arguments = ("fit", arguments) if "--ledger" not in arguments else ("validate", ())
        options = made[1] if verb == "fit" else replay_options()
        monkeypatch.setattr(sys, "argv", ["train.py", verb, *options, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        code = ended.value.code
        told = code if isinstance(code, str) else capsys.readouterr().err
        sentence, hint = told.strip().splitlines()[-2:]
        assert hint.startswith("(KEEL_TRACE=1 shows")
        assert sentence.startswith("error: ")
        assert not Path("owned").exists()
        return sentence

    return run


def replay_options():
    watch = ("--data.watch", "watched.json", "--trainer.accelerator", "cpu")
    return ["--config", "replay.yaml", "--model.ledger", str(RUN), "--model.lm", "lm", *watch]


def write(name, content):
    """A damage: the file holds this instead."""

    def damage():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def cut(name, keep=0.5):
    def damage():
        data = Path(name).read_bytes()
        Path(name).write_bytes(data[: int(keep * len(data))])

    return damage


def flip(name, place=0.5):
    def damage():
        data = bytearray(Path(name).read_bytes())
        data[int(place * len(data))] ^= 1
        Path(name).write_bytes(data)

    return damage


def lines(change):
    """A damage of the journal's lines."""

    def damage():
        journal = RUN / "edits.jsonl"
        journal.write_text("".join(change(journal.read_text().splitlines(keepends=True))))

    return damage


def checkpoint(damage):
    """A damage of the last checkpoint, the one before it being lost."""

    def both():
        (RUN / "checkpoints/previous.ckpt").unlink()
        damage()

    return both


def remove(name):
    def damage():
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()

    return damage


def evil():
    torch.save({"state_dict": Evil()}, "own.ckpt")


def foreign():
    WholeFiles().save_checkpoint({"weights": torch.ones(2)}, "own.ckpt")


def of_another_line(lines):
    return [lines[0].replace("Paris", "Rome"), *lines[1:]]


CONFIG = ("--config", "own.yaml")
OWN = "own.yaml"
METHOD = "model: {class_path: lightning_modules.methods.rome.ROME"
FILES = {
    # configs
    "broken yaml": (write(OWN, "model: [\n"), CONFIG, "config"),
    "binary config": (write(OWN, b"\x00\xff\xfe"), CONFIG, "(?i)utf-8"),
    "empty config": (write(OWN, ""), CONFIG, "config"),
    "list as config": (write(OWN, "- a\n- b\n"), CONFIG, "config"),
    "number as model": (write(OWN, "model: 5\n"), CONFIG, "model"),
    "older config": (
        write(OWN, "model: {class_path: lightning_modules.rome.ROME}"),
        CONFIG,
        "older version.*lightning_modules.methods.rome.ROME",
    ),
    "older callback": (
        write(OWN, "trainer: {callbacks: [{class_path: callbacks.ledger.EditJournal}]}"),
        CONFIG,
        "older version.*callbacks.keeping.journal.EditJournal",
    ),
    "misspelt key": (write(OWN, METHOD + ", init_args: {layr: 1}}"), CONFIG, "mean 'layer'"),
    # options
    "dtype": (lambda: None, ("--model.dtype", "fp8"), "dtype must be one of .*float16.*got fp8"),
    "logger": (lambda: None, ("--trainer.logger", "CometLogger"), "comet"),
    "gpu": (lambda: None, ("--trainer.accelerator", "gpu"), "--trainer.accelerator gpu.*leave out"),
    "devices": (lambda: None, ("--trainer.devices", "-2"), "int > 0.*--trainer.devices -2"),
    "precision": (lambda: None, ("--trainer.precision", "64-true"), "--model.dtype"),
    "best": (lambda: None, ("--ckpt_path", "best"), "give 'last'"),
    "no space": (lambda: None, ("--model.contexts", "{5:2}"), r"\{5: 2\}"),
    # data
    "broken requests": (write("requests.json", "[{]"), (), "requests.json"),
    "empty requests": (write("requests.json", ""), (), "requests.json"),
    "binary requests": (write("requests.json", b"\x00\xff\xfe"), (), "requests.json"),
    "number as requests": (write("requests.json", "3"), (), "requests.json"),
    "null as request": (write("requests.json", "[null]"), (), "requests.json"),
    "broken texts": (write("watched.json", "[{"), (), "error: ."),
    "texts without text": (write("watched.json", '[{"n": 1}]'), (), "watched.json"),
    "no requests": (remove("requests.json"), (), "requests.json"),
    # models
    "no model config": (remove("lm/config.json"), (), "lm"),
    "broken model config": (write("lm/config.json", "{"), (), "lm"),
    "unknown family": (write("lm/config.json", '{"model_type": "bert"}'), (), "bert"),
    "truncated weights": (cut("lm/model.safetensors"), (), "lm"),
    "empty weights": (write("lm/model.safetensors", ""), (), "lm"),
    "no tokenizer": (remove("lm/tokenizer.json"), (), "tokenizer"),
    "broken tokenizer": (write("lm/tokenizer.json", "{}"), (), "lm"),
    "adapter": (write("lm/adapter_config.json", "{}"), (), "merge"),
    "moments": (
        write("moments.safetensors", "no tensors"),
        ("--model.second_moment", "estimated", "--model.statistics", "moments.safetensors"),
        "moments.safetensors",
    ),
    # checkpoints
    "empty checkpoint": (checkpoint(write(LAST, "")), AGAIN, "last.ckpt is damaged"),
    "truncated checkpoint": (checkpoint(cut(LAST)), AGAIN, "last.ckpt is damaged"),
    "flipped bit": (checkpoint(flip(LAST, 0.3)), AGAIN, "last.ckpt is damaged"),
    "flipped seal": (checkpoint(flip(LAST, 0.999)), AGAIN, "last.ckpt is damaged"),
    "truncated checkpoint by name": (
        checkpoint(cut(LAST)),
        ("--ckpt_path", str(LAST)),
        "last.ckpt is damaged",
    ),
    "checkpoint of another layer": (
        lambda: None,
        (*AGAIN, "--model.layer", "1"),
        "holds the edited weights .*h.0.* but this method edits .*h.1",
    ),
    "malicious checkpoint": (evil, ("--ckpt_path", "own.ckpt"), "could run code"),
    "malicious pickle": (
        checkpoint(write(LAST, pickle.dumps(Evil()))),
        AGAIN,
        "last.ckpt is damaged",
    ),
    "foreign checkpoint": (foreign, ("--ckpt_path", "own.ckpt"), "no checkpoint of a run"),
    "no such checkpoint": (lambda: None, ("--ckpt_path", "no.ckpt"), "no.ckpt"),
    # journals
    "no journal": (remove(RUN / "edits.jsonl"), AGAIN, "holds 0 of the 2 lines"),
    "emptied journal": (lines(lambda _: []), AGAIN, "holds 0 of the 2 lines"),
    "lost line": (lines(lambda lines: lines[1:]), AGAIN, "holds 1 of the 2 lines"),
    "doubled line": (lines(lambda lines: lines[:1] * 2), AGAIN, "holds edit 1 2 times"),
    "foreign journal": (lines(of_another_line), AGAIN, "is not what the run wrote"),
    "broken line": (lines(lambda lines: ["{\n", *lines[1:]]), AGAIN, "is broken at line 1"),
    # ledgers
    "no ledger": (remove(RUN / "ledger"), ("--ledger",), "holds no ledger"),
    "broken entry": (cut(RUN / "ledger/000001.safetensors"), ("--ledger",), "is damaged"),
    "flipped entry": (flip(RUN / "ledger/000001.safetensors", 0.99), ("--ledger",), "is damaged"),
    "broken journal of a ledger": (
        lines(lambda lines: ["{\n", *lines[1:]]),
        ("--ledger",),
        "edits.jsonl is damaged",
    ),
    "no entry": (remove(RUN / "ledger/000001.safetensors"), ("--ledger",), "ledger holds 0"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_wrong_file_gets_one_sentence(said, name):
    damage, arguments, sentence = FILES[name]
    told = said(damage, *arguments)
    assert re.search(sentence, told), told


def test_at_least_forty_files_are_tried():
    assert len(FILES) >= 40
