"""Every documented command, merged: it makes sense to the parser, and has the papers' settings."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from command_line.composition import composed
from docs.reproduce import BOOKS, line
from train import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("shrink.Shrink", "nse.yaml")  # of examples, tested by themselves
ANYBODYS = "models/smollm2-135m.yaml"  # none of the papers' models
ALONE = {"data.limit": None, "data.batch_size": 1}
PPL_50 = {"data.watch": "ME-PPL_50.json"}
PPL_1K = {"data.watch": "ME-PPL_1k.json", "data.watch_limit": None}
FULL = {"data.tasks.limit": None, "data.tasks.source": "hub"}
NORMAL = {"data.sample": "both", "data.normal_cases": 1000, "data.seed": 0}
KEYS = ALONE | NORMAL | {"data.path": "azhx/counterfact", "data.models": ["gpt-j-6b"]}
PAPERS = {  # facts.md, section 10: by the words of a command, what its merged config must hold
    "validate models/gpt-j-6b.yaml": {"data.watch_limit": None, "model.lm": "EleutherAI/gpt-j-6b"},
    "papers/single-edits.yaml models/ rome.yaml": PPL_50 | {"data.batch_size": 1},
    "single-edits-zsre.yaml models/": PPL_50 | {"data.limit": 10000, "data.batch_size": 1},
    "single-edits.yaml models/ in-full.yaml": FULL | PPL_50 | {"data.limit": 30},
    "against-tasks.yaml models/": PPL_50 | {"data.case_ids": None, "data.batch_size": 1},
    "hardcf.yaml models/": ALONE | PPL_1K | {"data.seed": 0, "collapse.stop": False},
    "hardcf.yaml models/ in-full.yaml": FULL,
    "hard-edit-filter.yaml models/gpt2-xl.yaml": ALONE | PPL_50 | {"model.layer": 17},
    "hardedit.yaml models/": ALONE | PPL_1K | {"collapse.stop": False},
    "single-edits.yaml all-cases.yaml": KEYS | PPL_50 | {"model.second_moment": "identity"},
    "papers/keys models/": KEYS,
    "c_rome-prefixed.yaml models/": KEYS | PPL_50 | {"model.test_prefix.policy": "collapse"},
    "second-to-first.yaml models/": ALONE
    | PPL_50
    | {"model.first_position": 1, "data.sample": "hard", "data.path": "azhx/counterfact"},
    "parameter-change.yaml models/llama2": {"model.layer": 5, "data.batch_size": 1} | PPL_50,
    "t5-keys.yaml": {"model.lm": "google-t5/t5-3b", "model.layer": 23},
}


def commands(page: str) -> list[str]:
    """Commands of a page's blocks of shell, their variables put in."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        variables: dict[str, str] = {}
        for text in block.replace("\\\n", " ").splitlines():
            assigned = re.fullmatch(r'(\w+)="(.*)"', text)
            if assigned:
                variables[assigned[1]] = expanded(assigned[2], variables)
            found += re.findall(r"python train\.py .*", expanded(text, variables))
    return [" ".join(command.partition("#")[0].split()) for command in found]


def expanded(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda m: variables.get(m[1], m[0]), text)


DOCUMENTED = {
    command: page.name
    for page in PAGES
    for command in commands(page.read_text("utf-8"))
    if not any(word in command for word in ELSEWHERE)
} | {
    f"python train.py {line(book.runs / name, command)}": book.page.name
    for book in BOOKS.values()
    for experiment in book.experiments.values()
    for name, command in experiment.commands.items()
}


@pytest.fixture(scope="module")
def parser():
    return main(["--config", "rome.yaml"], run=False).parser


def merged(command, parser):
    """Everything that a command decides; prints it."""
    words = shlex.split(command)[3:]
    words = [w for w in words if w != "--ckpt_path" and not w.endswith(".ckpt") and w != "last"]
    config = parser.parse_args(composed(words))
    print(command, parser.dump(config), sep="\n")
    return config


def value_of(config, key):
    group, _, rest = key.partition(".")
    return config[group][rest] if group == "collapse" else config[f"{group}.init_args.{rest}"]


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_documented_command_is_understood_and_does_the_papers_experiment(
    command, parser, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = merged(command, parser)
    for words, settings in PAPERS.items():
        if all(word in command for word in words.split()) and ANYBODYS not in command:
            found = {key: value_of(config, key) for key in settings}
            assert found == settings
    assert config.trainer.callbacks


@pytest.mark.parametrize("words", PAPERS)
def test_every_experiment_of_the_papers_has_a_command(words):
    assert any(all(word in command for word in words.split()) for command in DOCUMENTED)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("families gtp2", "transformers knows no family gtp2"),
        ("fidelity nowhere", "No such file or directory: 'nowhere/"),
        ("leaderboard --hours 0", "hours must be positive, got 0.0"),
        ("methods --methods rom", r"methods \['rom'\] are not in the table"),
        ("reproduce --only pilot", r"experiments \['pilot'\] are unknown"),
        ("reproduce --page nowhere.md", "No such file or directory: 'nowhere.md'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_mistake_in_a_command_of_the_pages_gets_one_sentence(
    command, said, tmp_path, monkeypatch
):
    module, *arguments = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit, match=rf"^error: .*{said}"):
        runpy.run_module(f"docs.{module}", run_name="__main__")
    assert not list(tmp_path.iterdir())
