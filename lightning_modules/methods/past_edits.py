"""What past edits leave in an editor's history, which is undone and saved with the weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

History = dict[str, Tensor]  # entries are replaced, never changed in place
WIDTH = 16  # columns of a part: fewer and wider products, and yet only the last parts change


class PastEdits:
    """The downdates by the past edits of one layer: U with ``A⁻¹ = A0⁻¹ - U Uᵀ``, in parts.

    A part has a number of its own, so that an edit changes few entries of the history. Narrow parts
    are joined, and all of them once they have twice as many columns as rows.

    Args:
        history: of the editor; holds ``downdates/LAYER/NUMBER`` ``(f, m)``, float64.
        layer: the layer.

    Raises:
        ValueError: if the history is one of keys, as older versions kept it.
    """

    def __init__(self, history: History, layer: int) -> None:
        for name in ("keys", "covariance"):
            if f"{name}/{layer}" in history:
                raise ValueError(
                    f"the run's history holds {name}, as an older version kept it; continue the "
                    "run with that version, or start a new one"
                )
        self.history = history
        self.prefix = f"downdates/{layer}/"

    def numbers(self) -> list[int]:
        """Those of the parts, in order."""
        size = len(self.prefix)
        return sorted(int(name[size:]) for name in self.history if name.startswith(self.prefix))

    def parts(self, numbers: Sequence[int] | None = None) -> list[Tensor]:
        """The parts of all or the given numbers."""
        chosen = self.numbers() if numbers is None else numbers
        return [self.history[f"{self.prefix}{number}"] for number in chosen]

    def append(self, downdate: Tensor) -> None:
        """Adds the downdate ``(f, n)`` of an edit."""
        numbers = self.numbers()
        number = numbers[-1] + 1 if numbers else 0
        self.history[f"{self.prefix}{number}"] = downdate
        numbers.append(number)
        narrow = [n for n, part in zip(numbers, self.parts(numbers), strict=True) if _narrow(part)]
        if sum(part.shape[1] for part in self.parts(narrow)) >= WIDTH:
            self.replace(narrow, torch.cat(self.parts(narrow), 1))
        columns, rows = sum(part.shape[1] for part in self.parts()), len(downdate)
        if columns > 2 * rows:
            self.replace(self.numbers(), square(torch.cat(self.parts(), 1)))

    def replace(self, numbers: Sequence[int], part: Tensor) -> None:
        """Puts one part in the place of several."""
        for number in numbers:
            del self.history[f"{self.prefix}{number}"]
        self.history[f"{self.prefix}{numbers[0]}"] = part


def square(downdate: Tensor) -> Tensor:
    """``(f, f)`` V with ``V Vᵀ = U Uᵀ`` for U ``(f, m)``."""
    return torch.linalg.qr(downdate.T).R.T.clone(memory_format=torch.contiguous_format)


def _narrow(part: Tensor) -> bool:
    return part.shape[1] < WIDTH
