import lightning as L
import pytest

from callbacks.keeping.schedule import watched_next
from tests.callbacks.runs import fit, watching


class Foresight(L.Callback):
    """Notes after each edit whether it expects a validation, and after which there was one."""

    def __init__(self) -> None:
        self.expected: list[int] = []
        self.watched: list[int] = []

    def on_train_batch_end(self, trainer, *args) -> None:
        if watched_next(trainer):
            self.expected.append(trainer.global_step)

    def on_validation_end(self, trainer, module) -> None:
        if not trainer.sanity_checking:
            self.watched.append(trainer.global_step)


@pytest.mark.parametrize(
    ("options", "edits"),
    [
        ({"val_check_interval": 1}, [1, 2, 3, 4]),
        ({"val_check_interval": 3}, [3]),
        ({"limit_val_batches": 0}, []),
    ],
)
def test_a_validation_is_foreseen(lm, tmp_path, options, edits):
    foresight = Foresight()
    fit(lm, tmp_path, [*watching(), foresight], **options)
    assert foresight.expected == foresight.watched == edits
