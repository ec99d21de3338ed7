"""The published loops of C-ROME and MEMIT, as plain as their equations: slow oracles.

A model of its own, torch's kernels, whole passes, solves in float64. Only :func:`followed` and
what comes after it knows the product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_modules.records import EditRequest
from lightning_modules.functional.rank_one import factorize
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.methods.key_value import KeyValueEditor
from lightning_modules.methods.rome import ConsistentROME
from tests.published import Published


class Search(NamedTuple):
    """Published hyper-parameters of the value search."""

    steps: int = 20
    rate: float = 0.5
    decay: float = 0.5
    clamp: float = 4.0
    kl: float = 0.0625
    goal: float = 0.05


class PublishedLoop:
    """A GPT-2 under edit.

    Args:
        lm: its folder.
        contexts: templates with one ``{}``, the plain one first.
        moment: ``(f, f)``, second moment of the keys of every layer.
        search: how values are searched.
    """

    def __init__(self, lm: str | Path, contexts: list[str], moment: Tensor, search: Search) -> None:
        self.lm = AutoModelForCausalLM.from_pretrained(lm).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(lm)
        self.contexts = contexts
        self.moment = moment.double()
        self.search = search

    def weight(self, layer: int) -> Tensor:
        """Of the MLP's output map, ``(f, d)``."""
        return self.lm.transformer.h[layer].mlp.c_proj.weight

    def prompt(self, request: EditRequest, context: str) -> tuple[list[int], int]:
        """Tokens of a prompt in a context, and the place of the subject's last token."""
        template = context.replace("{}", request.prompt)
        before = template[: template.index("{}")] + request.subject
        tokens = self.tokenizer(template.replace("{}", request.subject))["input_ids"]
        return tokens, len(self.tokenizer(before)["input_ids"]) - 1

    def at_subject(self, layer: int, kind: str, request: EditRequest, context: str) -> Tensor:
        """Key, MLP output or residual stream of a layer at the subject, one pass per text."""
        tokens, place = self.prompt(request, context)
        block, seen = self.lm.transformer.h[layer], []
        module = block if kind == "residual" else block.mlp.c_proj

        def note(module, inputs, output):
            seen.append((inputs[0] if kind == "key" else first(output))[0, place])

        handle = module.register_forward_hook(note)
        self.lm(torch.tensor([tokens]))
        handle.remove()
        return seen[0].double()

    def value(self, layer: int, kind: str, request: EditRequest) -> Tensor:
        """The wanted value, ``(d,)``: the plain prompt's plus a searched change, float64."""
        target = self.tokenizer(" " + request.target_new)["input_ids"]
        rows = [self.prompt(request, context) for context in self.contexts]
        essence = self.prompt(request._replace(prompt="{} is a"), "{}")
        texts = [tokens + target[:-1] for tokens, _ in rows] + [essence[0]]
        padded = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
        for row, text in enumerate(texts):
            padded[row, : len(text)] = torch.tensor(text)
        places = [place for _, place in rows] + [essence[1]]
        start = self.at_subject(layer, kind, request, "{}").float()
        change = torch.zeros_like(start, requires_grad=True)
        block = self.lm.transformer.h[layer]
        module = block if kind == "residual" else block.mlp.c_proj

        def move(module, inputs, output):
            moved = first(output).clone()
            for row, place in enumerate(places):
                moved[row, place] = moved[row, place] + change
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        adam = torch.optim.Adam([change], lr=self.search.rate)
        unedited = None
        for step in range(self.search.steps):
            handle = module.register_forward_hook(move)
            told = self.lm(padded).logits.log_softmax(-1)
            handle.remove()
            now = told[-1, essence[1]]
            unedited = now.detach() if unedited is None else unedited
            loss = self.search.kl * (now.exp() * (now - unedited)).sum()
            for row, (tokens, _) in enumerate(rows):
                for number, token in enumerate(target):
                    share = len(rows) * len(target)
                    loss = loss - told[row, len(tokens) - 1 + number, token] / share
            loss = loss + self.search.decay * change.norm() / start.norm() ** 2
            if loss < self.search.goal or step == self.search.steps - 1:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                most = self.search.clamp * start.norm()
                if change.norm() > most:
                    change *= most / change.norm()
        return (start + change.detach()).double()

    def consistent_rome(self, requests: Sequence[EditRequest], layer: int) -> Iterator[Tensor]:
        """C-ROME: one edit after another; yields each change, ``(d, f)``."""
        for request in requests:
            wanted = self.value(layer, "output", request)
            parts = {
                kind: torch.stack(
                    [self.at_subject(layer, kind, request, context) for context in self.contexts]
                ).mean(0)
                for kind in ("key", "output")
            }
            direction = torch.linalg.solve(self.moment, parts["key"])
            residual = wanted - parts["output"]
            change = torch.outer(residual, direction) / (direction @ parts["key"])
            self.weight(layer).add_(change.T.float())
            yield change

    def memit(
        self, batches: Sequence[Sequence[EditRequest]], layers: Sequence[int], preservation: float
    ) -> Iterator[list[Tensor]]:
        """MEMIT: one batch after another; yields each batch's changes, one ``(d, f)`` per layer."""
        last = layers[-1]
        for batch in batches:
            wanted = torch.stack([self.value(last, "residual", request) for request in batch], 1)
            changes = []
            for number, layer in enumerate(layers):
                keys = torch.stack([self.mean_key(layer, request) for request in batch], 1)
                present = [self.at_subject(last, "residual", request, "{}") for request in batch]
                residuals = (wanted - torch.stack(present, 1)) / (len(layers) - number)
                solved = torch.linalg.solve(preservation * self.moment + keys @ keys.T, keys)
                changes.append(residuals @ solved.T)
                self.weight(layer).add_(changes[-1].T.float())
            yield changes

    def mean_key(self, layer: int, request: EditRequest) -> Tensor:
        """Mean of the plain key and of the mean key over the other contexts, ``(f,)``."""
        plain, *others = [self.at_subject(layer, "key", request, c) for c in self.contexts]
        return (plain + torch.stack(others).mean(0)) / 2


def first(output: Tensor | tuple) -> Tensor:
    """Hidden states of a module that may give a tuple."""
    return output[0] if isinstance(output, tuple) else output


class Followed(NamedTuple):
    """How far a sequence of edits departs from the published loop, in relative differences.

    Attributes:
        changes: of each edit's change, the largest of its layers.
        final: of the sum of all changes, the largest of the layers.
    """

    changes: list[float]
    final: float


def followed(
    editor: KeyValueEditor,
    batches: Sequence[Sequence[EditRequest]],
    loop: PublishedLoop,
    theirs: Iterator[list[Tensor]],
) -> Followed:
    """Makes the same edits with both, each on a model of its own that keeps all of them."""
    before = {layer: loop.weight(layer).clone() for layer in editor.layers}
    changes = []
    for batch, expected in zip(batches, theirs, strict=True):
        editor.make_edit(batch)
        ours = [update.dense().double() for update in editor.applied]
        pairs = zip(ours, expected, strict=True)
        changes.append(max(float((o - e).norm() / e.norm()) for o, e in pairs))
    final = 0.0
    for layer, name in zip(editor.layers, editor.original, strict=True):
        ours = editor.edited.master(name) - editor.original[name]
        expected = loop.weight(layer) - before[layer]
        final = max(final, float((ours - expected).norm() / expected.norm()))
    editor.restore()
    return Followed(changes, final)


def rome_sequence(
    published: Published, edits: int, contexts: int | None = None, steps: int = 20
) -> Followed:
    """C-ROME at layer 2 on the first requests of the golden figures, one after another.

    Args:
        published: the folder of figures.
        edits: their number; the first ten subjects begin their prompts.
        contexts: number of context templates; all 21 if null.
        steps: most steps of a value search.
    """
    templates = published.rome["contexts"][:contexts]
    editor = ConsistentROME(2, value=ValueSearchOptions(steps=steps), lm=published.lm)
    editor.configure_model()
    editor.contexts.templates = templates
    editor.factors = {2: factorize(published.moment)}
    loop = PublishedLoop(published.lm, templates, published.moment, Search(steps))
    requests = [published.requests[case] for case in range(edits)]
    theirs = ([change] for change in loop.consistent_rome(requests, 2))
    return followed(editor, [[request] for request in requests], loop, theirs)


def memit_sequence(
    published: Published, requests: Sequence[EditRequest], size: int, steps: int = 20
) -> Followed:
    """MEMIT at layers 1 to 3 in batches of ``size``, with the golden figures' hyper-parameters."""
    editor = published.closed_form("memit")
    editor.search.options = replace(editor.search.options, steps=steps)
    search = Search(steps, clamp=0.75)
    loop = PublishedLoop(published.lm, editor.contexts.templates, published.moment, search)
    batches = [requests[at : at + size] for at in range(0, len(requests), size)]
    return followed(editor, batches, loop, loop.memit(batches, editor.layers, 1000.0))
