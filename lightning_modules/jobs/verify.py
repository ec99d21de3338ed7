"""A run's model rebuilt from its ledger, to judge again what the run's folder claims."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_modules.records import EditRequest

from ..editing.editor import Editor
from ..editing.ledger import Entry
from ..language_model.layout import blocks, output_weight_name
from .removal import method_of
from .replay import Replay


class Verify(Replay):
    """Under ``test``, rebuilds a run's model; the callback ``Verification`` judges and compares.

    A method that changes no weights makes its edits again, as the ledger holds its requests.

    Args:
        ledger: the folder of a run.
    """

    def __init__(self, ledger: str, **options: Any) -> None:
        super().__init__(ledger=ledger, **options)
        self.method: Editor | None = None

    @property
    def run(self) -> Path:
        """The folder to verify."""
        return Path(self.ledgers[0])

    def edited_weights(self) -> list[str]:
        """The weights in the ledger; the last layer's output map if it holds none."""
        last = len(blocks(self.lm)) - 1
        return super().edited_weights() or [output_weight_name(self.lm, last)]

    def on_test_start(self) -> None:
        """Makes all edits before the evaluation."""
        self.begin_again()
        for entry in self.chosen():
            self.repeat(entry)

    def begin_again(self) -> None:
        """Gives the model its original weights, and a method without weights no fact."""
        self.restore()
        self.method = None if super().edited_weights() else method_of(self.run, self)

    def repeat(self, entry: Entry) -> None:
        """Makes an edit as the ledger holds it."""
        for update in self.updates(entry):
            self.edited.apply(update)
        if self.method is not None:
            self.method.make_edit(entry.requests())
        self.edited_requests += entry.identities

    def worded(self, request: EditRequest) -> EditRequest:
        """The request as a method without weights words it."""
        return request if self.method is None else self.method.worded(request)

    def tested(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """None: the callback judges them."""
        return []
