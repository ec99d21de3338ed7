"""Operations that launch a kernel on a GPU, counted on the CPU with tiny models of any depth."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPTJConfig, LlamaConfig, PretrainedConfig

from data_modules.records import EditRequest
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.values import record_requests, search_values
from lightning_modules.methods.rome import ROME
from tests.oracles import full_value_search, published_kernels
from tests.tiny import CONTEXTS, tiny_editor, tiny_model

REQUEST = EditRequest(2, "The mother tongue of {} is", "Danielle Vinson", "Latin")
FAMILIES = {GPT2Config: "gpt2", GPTJConfig: "gptj", LlamaConfig: "llama"}
NO_KERNEL = ("empty", "empty_like", "empty_strided", "lift_fresh", "_local_scalar_dense")


class Launches(TorchDispatchMode):
    """Counts operations that compute; views and empty tensors do not."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        silent = function.is_view or name.endswith("view") or name.startswith("_record")
        if not (silent or name in NO_KERNEL):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


class Step(NamedTuple):
    """Operations of one step of the value search.

    Attributes:
        fixed: whatever the depth.
        above: for each block above the edit, forward and backward.
        below: for each block up to the edit.
    """

    fixed: int
    above: int
    below: int

    def total(self, blocks: int, layer: int) -> int:
        """Operations for a model of so many blocks, edited at a layer."""
        return self.fixed + self.above * (blocks - 1 - layer) + self.below * (layer + 1)


def steps_of(config: PretrainedConfig) -> tuple[Step, Step]:
    """A step of ours and of the published way, for the family of a configuration."""
    family = FAMILIES[type(config)]
    first, deeper, higher = (counted(family, *place) for place in ((3, 1), (4, 1), (4, 2)))
    found = []
    for start, deep, high in zip(first, deeper, higher, strict=True):
        above, below = deep - start, high - start
        found.append(Step(start - above - 2 * below, above, below))
    return found[0], found[1]


def counted(family: str, blocks: int, layer: int) -> tuple[int, int]:
    """Operations of a step of ours and of the published way."""
    editor = tiny_editor(ROME, tiny_model(family, num_hidden_layers=blocks))
    editor.layers = [layer]

    def ours(steps: int) -> None:
        recorded = record_requests(editor.lm, editor.tokenizer, layer, CONTEXTS, [REQUEST])
        options = ValueSearchOptions(steps=steps, goal=0.0)
        with published_kernels(editor.lm):
            search_values(editor.lm, layer, recorded, options)

    def published(steps: int) -> None:
        editor.search.options = ValueSearchOptions(steps=steps, goal=0.0)
        full_value_search(editor, REQUEST)

    return _per_step(ours), _per_step(published)


def _per_step(run: Callable[[int], object]) -> int:
    found = []
    for steps in (2, 4):
        with Launches() as launches:
            run(steps)
        found.append(launches.seen.total())
    return (found[1] - found[0]) // 2
