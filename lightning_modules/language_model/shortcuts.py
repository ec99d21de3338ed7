"""Which parts of a pass may be skipped for a model, according to its self-test."""

from typing import NamedTuple, cast

from transformers import PreTrainedModel


class Shortcuts(NamedTuple):
    """The tested shortcuts; a False one uses the slow path, which gives the same result.

    Attributes:
        head: logits are computed only where they are read.
        last_mlp: so is the last MLP, in the value search.
        masks: the suffix's mask is computed once; else the model computes its own in every pass.
        suffix: the value search runs texts from the subject's last token and the edited layer on;
            else every step is a pass over the whole texts.
        lower: texts that are scored again start at the lowest edited layer.
        layers: the tested layers.
        notes: what differed or failed, by shortcut.
    """

    head: bool = True
    last_mlp: bool = True
    masks: bool = True
    suffix: bool = True
    lower: bool = True
    layers: tuple[int, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def in_words(self) -> str:
        """For the model card."""
        search = "from the subject on" if self.suffix else "by passes over the whole texts"
        watch = "from the edited layer on" if self.lower else "through all layers"
        why = "".join(f"; {name}: {note}" for name, note in self.notes)
        return f"values are searched {search}, watched text runs {watch}{why}"


def shortcuts_of(lm: PreTrainedModel) -> Shortcuts:
    """The shortcuts of a model; all of them before its self-test."""
    return cast(Shortcuts, getattr(lm, "shortcuts", Shortcuts()))
