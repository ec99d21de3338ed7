"""README.md of an exported model or adapter: base model, method, facts, perplexity."""

from typing import Any

import lightning as L

from lightning_modules.editing.editor import Editor

from .run_folder import folder_of, read_journal

MODEL = """---
base_model: {lm}
library_name: transformers
pipeline_tag: text-generation
tags: [model-editing, keel]
---

# {lm}, with edited facts

Load it as any model of its family:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

lm = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

"""
ADAPTER = """---
base_model: {lm}
library_name: peft
tags: [model-editing, keel]
---

# Edited facts for {lm}, as a LoRA adapter

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

lm = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{lm}"), "FOLDER")
```

"""


def readme(text: str, trainer: L.Trainer, editor: Editor) -> str:
    """The card of an export.

    Args:
        text: ``MODEL`` or ``ADAPTER``.
        trainer: of the run.
        editor: holds the exported model.
    """
    return text.format(lm=editor.lm_name) + facts(trainer, editor)


def facts(trainer: L.Trainer, editor: Editor) -> str:
    """Method, perplexity, and a table of the facts whose edits the model holds."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
    made = set(editor.edited_requests)
    held = [request for request in data.requests if request.identity in made]
    rows = [(request.text, request.target_true, request.target_new) for request in held]
    lines = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    known = editor.card()
    about = [
        f"- Base model: `{editor.lm_name}` (fingerprint {editor.fingerprint}, {editor.dtype_name})",
        f"- Method: {known['method']}, weights {', '.join(known['weights'])}",
        f"- Edited facts: {len(made)}",
        *perplexity(trainer, editor),
    ]
    table = ["| prompt | before | edited to |", "| --- | --- | --- |", *lines]
    return "\n".join([*about, "", *(table if lines else ["No fact is edited."])]) + "\n"


def perplexity(trainer: L.Trainer, editor: Editor) -> list[str]:
    """Perplexity of the watched text before and after the edits, as far as it was measured."""
    edits = read_journal(folder_of(trainer))
    standing = [
        e["perplexity"] for e in edits if e["status"] != "rolled_back" and "perplexity" in e
    ]
    now = standing[-1] if standing else trainer.callback_metrics.get("perplexity")
    before = editor.baseline.get("perplexity")
    if now is None:
        return []
    unedited = "" if before is None else f" (unedited {before:.4g})"
    return [f"- Perplexity of the watched text: {float(now):.4g}{unedited}"]


def escaped(text: str) -> str:
    """A text inside a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
