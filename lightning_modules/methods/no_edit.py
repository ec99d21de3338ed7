"""No edit: the baseline that every difference is a difference to."""

from collections.abc import Iterator, Sequence

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.editor import Editor
from ..language_model.layout import blocks, output_weight_name


class NoEdit(Editor):
    """Leaves the model as it is, so that its answers are those before any edit."""

    needs_subject = False
    edits_experts = True

    def edited_weights(self) -> list[str]:
        """The last layer's output map: all states below it are computed once."""
        return [output_weight_name(self.lm, len(blocks(self.lm)) - 1)]

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """No change."""
        yield from ()
