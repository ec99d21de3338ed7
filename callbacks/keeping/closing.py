"""The last words of a run: what became of the facts and of the model, and what to do next."""

from collections.abc import Sequence
from shlex import quote
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.editor import Editor

from .edit_lines import Stated, stated_at_edits
from .run_folder import folder_of, is_removed
from .schedule import restores
from .summary import verdict

HARD_SEARCH = 1.0  # nats of the value search's loss above which the value itself says otherwise


def close(
    trainer: L.Trainer, editor: Editor, summary: dict[str, Any], edits: Sequence[dict[str, Any]]
) -> None:
    """Tells the verdict, the facts stated, the run's folder, and the next commands.

    Args:
        trainer: of the run.
        editor: the method.
        summary: of the run.
        edits: its journal.
    """
    facts = Stated(**summary["stated"])
    sentence = f"; {stated_sentence(facts, restores(trainer))}" if facts.facts else ""
    rank_zero_info(verdict(summary) + sentence)
    folder = folder_of(trainer)
    if not is_removed(folder):
        rank_zero_info("\n".join([f"Journal: {folder}", *_next_commands(trainer)]))
    if editor.remedy and summary["collapsed_at"]:
        rank_zero_info(f"Try: {editor.remedy}")
    if facts.facts and not facts.stated:
        rank_zero_info(f"Warning: {none_stated(editor, summary, edits)}")


def stated_sentence(facts: Stated, alone: bool) -> str:
    """How many facts the model states.

    Args:
        facts: the count.
        alone: whether each was asked after its own edit, which the next one undid.
    """
    verb = "is" if facts.facts == 1 else "are"
    noun = "fact" if facts.facts == 1 else "facts"
    how = f"{verb} stated after {'its' if facts.facts == 1 else 'their'} own edit"
    return f"{facts.stated} of {facts.facts} {noun} {how if alone else f'{verb} now stated'}"


def none_stated(editor: Editor, summary: dict[str, Any], edits: Sequence[dict[str, Any]]) -> str:
    """The warning that no fact is stated, with the likely cause and what to type next."""
    facts = summary["stated"]["facts"]
    begin = f"0 of {facts} facts are stated" if facts > 1 else "the fact is not stated"
    return f"{begin}: {_likely_cause(editor, summary, edits)}"


def _likely_cause(editor: Editor, summary: dict[str, Any], edits: Sequence[dict[str, Any]]) -> str:
    if edits and not summary["applied"]:
        return f"no edit stands; the first: {edits[0].get('reason', edits[0].get('status'))}"
    if summary["collapsed_at"] is not None:
        how = editor.remedy or "the same command with --trainer.callbacks+=CollapseGuard"
        return f"the model collapsed at edit {summary['collapsed_at']}; try: {how}"
    once = stated_at_edits(edits).stated
    if once:
        how = editor.remedy or f"python train.py fit --config memit-seq.yaml{_model(editor)}"
        return f"{once} were after their own edit, and later edits undid that; try: {how}"
    if 2 * sum(edit.get("subject_position") == 0 for edit in edits) > len(edits):
        return (
            "the prompts begin with their subjects, at whose last token an edit rarely takes; "
            'word them so that something precedes the subject ("The capital of {} is")'
        )
    losses = [edit["value_loss"] for edit in edits if "value_loss" in edit]
    if losses:
        hard = f"no search found a value that gives the answer (loss from {min(losses):.3g})"
        found = "the edits move the model less than the values found ask for"
        what = hard if min(losses) > HARD_SEARCH else found
        return f"{what}, so the layer may not suit the model; {_find_layer(editor)}"
    return (
        f"{type(editor).__name__}'s steps are too small, or its layers do not suit the model; try: "
        f"python train.py fit --config c_rome.yaml{_model(editor)}"
    )


def _find_layer(editor: Editor) -> str:
    single = "layer" in vars(editor) or len(getattr(editor, "layers", [])) == 1
    return (
        f"find one with: python train.py fit --config layer-study.yaml{_model(editor)}, then give "
        f"--model.{'layer' if single else 'layers'} auto"
    )


def _model(editor: Editor) -> str:
    return "" if editor.lm_name == "embedded" else f" --model.lm {quote(editor.lm_name)}"


def _next_commands(trainer: L.Trainer) -> list[str]:
    """What reads the run, and what judges its model, one command a line."""
    folder = folder_of(trainer)
    saved, config = folder / "checkpoints" / "last.ckpt", folder / "config.yaml"
    commands = []
    if isinstance(trainer.logger, TensorBoardLogger):
        commands.append(f"Look: tensorboard --logdir {quote(str(folder))}")
    if saved.is_file() and config.is_file() and not restores(trainer):
        files = f"--config {quote(str(config))} --ckpt_path {quote(str(saved))}"
        commands.append(f"Test: python train.py test {files}")
    return commands
