"""Help that begins with what most runs need, and that knows the class a config chooses."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from .configs import located
from .short_names import full

ESSENTIALS = """\
Most runs need no more than these:

  --config NAME.yaml      a method's config of configs/, such as rome.yaml or memit.yaml
  --config models/X.yaml  a model's config beside it, such as models/smollm2-135m.yaml
  --model METHOD          another method, such as ConsistentROME or MEMIT
  --model.lm MODEL        embedded, a folder, a GGUF file, or a model's name on the hub
  --model.layer N         the edited layer (MEMIT and its kin: --model.layers [N,M]), or auto
  --data.path FILE        the facts: JSON, JSON lines or CSV (docs/data.md)
  --data.limit N          only the first N of them
  --data.watch FILE       text whose perplexity is watched, one per line
  --trainer.devices N     devices
  --ckpt_path last        continue the last run (fit), or judge its model (test)
  --model.help            all options of the config's method; --data.help, of its data

All options:

"""
DEFAULT = {"data": "EditingDataModule"}


def named_help(arguments: Sequence[str]) -> list[str]:
    """The command line whose ``--model.help`` and ``--data.help`` name the class they are about.

    Args:
        arguments: of the command line.
    """
    words = list(arguments)
    for place, word in enumerate(words):
        alone = place + 1 == len(words) or words[place + 1].startswith("-")
        if word in ("--model.help", "--data.help") and alone:
            key = word[2:].partition(".")[0]
            found = _class_of(key, words)
            words[place] = f"{word}={found}" if found else word
    return words


def _class_of(key: str, words: Sequence[str]) -> str | None:
    """The class that an option names, else the last config that names one."""
    found = DEFAULT.get(key)
    pairs = [(w.partition("=")[0], w.partition("=")[2]) for w in words if "=" in w]
    pairs += list(pairwise(words))
    for option, value in pairs:
        if option in ("--config", "-c") and Path(located(value)).is_file():
            content = yaml.safe_load(Path(located(value)).read_text("utf-8"))
            part = content.get(key) if isinstance(content, dict) else None
            found = (part.get("class_path") if isinstance(part, dict) else part) or found
    for option, value in pairs:
        if option == f"--{key}":
            found = value
    return full(found) if found else None
