"""Forward passes that skip what an edit cannot change."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .experts import Routed, received
from .layout import blocks, layout_of
from .shortcuts import shortcuts_of
from .tokens import TokenBatch


class _StopForwardError(Exception):
    """Ends a forward pass at the module that raised it."""


@contextmanager
def recording(modules: Mapping[Any, nn.Module], stop_at: nn.Module | None = None) -> Iterator[dict]:
    """Collects ``name -> (first input, output)`` of modules; ends the pass after ``stop_at``.

    The input of experts is all that they were given.
    """
    seen: dict[Hashable, tuple[Tensor | Routed, Tensor]] = {}

    def hook_for(name: Hashable) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            seen[name] = received(module, args, kwargs), output
            if module is stop_at:
                raise _StopForwardError

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(hook_for(name), with_kwargs=True)
            stack.callback(handle.remove)
        with suppress(_StopForwardError):
            yield seen


@contextmanager
def starting_at(lm: PreTrainedModel, layer: int, hidden: Tensor) -> Iterator[None]:
    """Inside, blocks below ``layer`` are skipped and the next module receives ``hidden``.

    Args:
        lm: the model; its own embedding, masks, norm and head still run.
        layer: the first block to run, at least 1; the number of blocks to run none.
        hidden: ``(b, t, d)``, the output of the previous block.
    """
    returns_tuple = layout_of(lm).returns_tuple

    def replaced(*args: Any, **kwargs: Any) -> Tensor | tuple:
        return (hidden, None) if returns_tuple else hidden

    with ExitStack() as stack:
        for block in blocks(lm)[:layer]:
            stack.enter_context(_acting_as(block, replaced))
        yield


@contextmanager
def _acting_as(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Inside, a module's ``forward`` is another; accelerate's own, if it has one, is put back."""
    own = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            vars(module)["forward"] = own


@contextmanager
def heads_only_at(lm: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside, the output head sees only the hidden states at ``(rows, columns)``, each ``(n,)``.

    The model then returns logits of shape ``(1, n, v)``. If its self-test found that this changes
    the logits, all of them are computed and those at ``(rows, columns)`` returned.
    """

    def pick(module: nn.Module, args: tuple) -> tuple:
        return (at(args[0], rows, columns)[None],)

    def pick_logits(module: nn.Module, args: tuple, output: Any) -> Any:
        output.logits = at(output.logits, rows, columns)[None]
        return output

    if shortcuts_of(lm).head:
        handle = lm.get_output_embeddings().register_forward_pre_hook(pick)
    else:
        handle = lm.register_forward_hook(pick_logits)
    try:
        yield
    finally:
        handle.remove()


def at(states: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """States ``(n, …)`` at ``(rows, columns)``, where the states are."""
    return states[rows.to(states.device), columns.to(states.device)]


def run(model: nn.Module, batch: TokenBatch) -> Any:
    """What a model returns for whole texts, without a cache."""
    return model(
        batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    )


def picked_logits(lm: PreTrainedModel, batch: TokenBatch, rows: Tensor, columns: Tensor) -> Tensor:
    """Logits ``(n, v)`` at ``(rows, columns)`` of whole texts."""
    with heads_only_at(lm, rows, columns):
        return run(lm, batch).logits[0]


@contextmanager
def read_only_at(lm: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside, modules after the last attention run only at ``(rows, columns)``, each ``(n,)``.

    The model then returns logits of shape ``(1, n, v)``; elsewhere the last MLP returns zeros that
    nothing reads.
    """
    last = blocks(lm)[-1]
    mlp = last.get_submodule(layout_of(lm).output_of(last).rpartition(".")[0])
    own = mlp.forward

    def forward(hidden_states: Tensor, *others: Tensor) -> Tensor:  # BLOOM's adds a residual itself
        picked = [at(states, rows, columns)[None] for states in (hidden_states, *others)]
        chosen = own(*picked).squeeze(0)
        everywhere = chosen.new_zeros(*hidden_states.shape[:-1], chosen.shape[-1])
        places = rows.to(chosen.device), columns.to(chosen.device)
        return everywhere.index_put(places, chosen)

    with heads_only_at(lm, rows, columns):
        if mlp is last or not shortcuts_of(lm).last_mlp:  # OPT's MLP is no module
            yield
            return
        with _acting_as(mlp, forward):
            yield
