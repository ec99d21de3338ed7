"""What one edit costs a row: CPU time, memory, floating-point operations, and what it keeps."""

import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import train
from callbacks.keeping.run_folder import write_json
from docs.leaderboard.boards import COST, RUNS, Board
from docs.leaderboard.course import read_json
from docs.leaderboard.launching import arguments
from docs.leaderboard.trials import options_of
from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.editor import Editor

TIMED = 3  # edits whose time is averaged, after a first one


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors, made inside the mode, that are alive at once, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Counts the storages that an operation makes; a view shares its base's."""
        old = {id(storage(leaf)[0]) for leaf in tree_leaves((args, kwargs)) if tensor(leaf)}
        result = function(*args, **(kwargs or {}))
        for place, size in map(storage, filter(tensor, tree_leaves(result))):
            if id(place) not in self.alive and id(place) not in old:
                self.alive[id(place)] = size
                weakref.finalize(place, self.alive.pop, id(place), None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def tensor(leaf: object) -> bool:
    """Whether an argument is a tensor."""
    return isinstance(leaf, Tensor)


def storage(leaf: Tensor) -> tuple[Tensor | torch.UntypedStorage, int]:
    """Where a tensor lies, and its bytes; one packed for oneDNN has no storage but itself."""
    if leaf.is_mkldnn:
        return leaf, leaf.nbytes
    return leaf.untyped_storage(), leaf.untyped_storage().nbytes()


def measured(board: Board, row: str) -> dict[str, float]:
    """An edit's cost, read, or measured on the report part and written to the row's folder.

    ``seconds`` is CPU time of this process per edit, after a first edit; ``memory`` the peak of
    tensors alive during one, beyond those before it; ``operations`` those of its matrix products,
    attention included, factorizations not; ``kept`` the bytes of its updates, as the ledger holds
    them, and of what the method's history grows by.
    """
    file = RUNS / board.name / row / COST
    known = read_json(file)
    if known is None:
        asked = arguments(board, row, board.seeds[0], TIMED + 3, options_of(board, row))
        cli = train.main(asked, run=False)
        cli.datamodule.setup("fit")
        cli.model.configure_model()
        cli.model.prepare()
        file.parent.mkdir(parents=True, exist_ok=True)
        data = cli.datamodule
        together = row in board.together
        batches = [[r] for r in data.requests] if together else list(data.train_dataloader())
        known = costs(cli.model, list(islice(cycle(batches), TIMED + 3)))
        write_json(file, known)
    return known


def costs(editor: Editor, batches: Sequence[Any]) -> dict[str, float]:
    """The cost of an edit by an editor that is ready to edit; it holds the edits afterwards.

    An edit of a row that trains on all requests at once is one step on one request.
    """
    make(editor, batches[0])
    started = time.process_time()
    for batch in batches[1 : 1 + TIMED]:
        make(editor, batch)
    seconds = (time.process_time() - started) / TIMED
    before = size_of(editor.history)
    with FlopCounterMode(display=False, custom_mapping=fast_kernels()) as counter:
        make(editor, batches[1 + TIMED])
    kept = sum(map(size, editor.applied)) + size_of(editor.history) - before
    with LiveBytes() as live:
        make(editor, batches[2 + TIMED])
    return {
        "seconds": seconds,
        "memory": float(live.peak),
        "operations": float(counter.get_total_flops()),
        "kept": float(kept),
    }


def fast_kernels() -> dict[Any, Callable]:
    """How to count the operations of our fast kernels, which torch's counter does not know."""
    if not torch.backends.mkldnn.is_available():
        return {}
    return {torch.ops.mkldnn._linear_pointwise: products}


def products(inputs: Sequence[int], weight: Sequence[int], *others: Any, **options: Any) -> int:
    """Operations of ``x Wᵀ``: a product and a sum each.

    Args:
        inputs: shape of x, ``(..., in)``.
        weight: shape of W, ``(out, in)``.
        others: of the kernel.
        options: of the kernel.
    """
    return 2 * math.prod(inputs) * weight[0]


def make(editor: Editor, batch: Any) -> None:
    """Makes one edit."""
    editor.record = {}
    editor.make_edit(batch)


def size(update: Update) -> int:
    """Bytes of an update's factors."""
    return sum(part.nbytes for part in (update.left, update.right) if part is not None)


def size_of(history: Mapping[str, Tensor]) -> int:
    """Bytes of a method's history."""
    return sum(part.nbytes for part in history.values())
