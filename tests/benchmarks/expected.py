"""What an edit should take on a GPU, computed from operations, bytes and launches; not measured.

python -m tests.benchmarks.expected writes the table into docs/performance.md.
"""

from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM

from lightning_modules.language_model.layout import blocks, output_map

from .counting import Step, steps_of
from .large import PAPERS, Shape
from .marks import fill, markdown

COMMAND = "python -m tests.benchmarks.expected"
STEPS, TEXTS, TARGET, LENGTH = 20, 22, 4, 17  # of a request with its contexts
SUFFIX = 6  # tokens from the subject on, rounded up: CounterFact's median is 4
WATCHED = {6: 1518, 3: 1812, 2: 2050, 1: 2950}  # batches of ME-PPL_50, and tokens with padding
JUDGED = 400  # tokens of a request's questions
REACHED = 0.6  # share of the peaks that products and copies reach
EAGER = 20e-6  # seconds per operation launched by torch: an edit of GPT-J on an H200 shows it
GRAPHED = 1.5e-6  # seconds per operation replayed from a graph, an assumption
TOGETHER, COPIES = 8, 16  # requests of a search, and edits of a sweep watched together


class Card(NamedTuple):
    """A GPU's peaks: bfloat16 operations and bytes per second."""

    name: str
    operations: float
    bytes: float


CARDS = (Card("H100", 989e12, 3.35e12), Card("H200", 989e12, 4.8e12))


class Work(NamedTuple):
    """What a part of an edit costs: operations, bytes, and launches."""

    operations: float = 0
    bytes: float = 0
    launches: float = 0

    def seconds(self, card: Card, launch: float = EAGER) -> float:
        """The slowest of the three, which overlap."""
        return max(
            self.operations / card.operations / REACHED,
            self.bytes / card.bytes / REACHED,
            self.launches * launch,
        )


class Size(NamedTuple):
    """A model's size: weights of a block, of the head and of the edited map; its depth."""

    block: int
    head: int
    edited: int
    width: int
    depth: int


def size_of(shape: Shape) -> Size:
    """The sizes of a shape, without its weights."""
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(shape.config)
    edited = output_map(lm, shape.layer).weight
    block = sum(parameter.numel() for parameter in blocks(lm)[0].parameters())
    width = edited.numel() // shape.config.hidden_size
    head = lm.get_output_embeddings().weight.numel()
    return Size(block, head, edited.numel(), width, len(blocks(lm)))


def passed(size: Size, count: int, tokens: float, read: float, launches: int) -> Work:
    """A forward pass through some blocks and the head: two operations and bytes per weight."""
    operations = 2 * (tokens * count * size.block + read * size.head)
    return Work(operations, 2 * (count * size.block + size.head), launches * count)


def search_step(shape: Shape, size: Size, step: Step, requests: int) -> Work:
    """Forward and backward through the blocks above the edit, from the subject on."""
    texts, above = requests * TEXTS, size.depth - 1 - shape.layer
    once = passed(size, above, texts * SUFFIX, texts * TARGET, 0)
    launches = step.total(size.depth, shape.layer)
    return Work(2 * once.operations, 2 * once.bytes, launches)


def published_step(shape: Shape, size: Size, step: Step) -> Work:
    """Whole texts through all blocks, logits everywhere; backward through the blocks above."""
    tokens, above = TEXTS * LENGTH, size.depth - 1 - shape.layer
    parts = [passed(size, count, tokens, tokens, 0) for count in (size.depth, above)]
    operations, moved = (sum(part[n] for part in parts) for n in range(2))
    return Work(operations, moved, step.total(size.depth, shape.layer))


def watched(shape: Shape, size: Size, launches: int, batches: float, tokens: int) -> Work:
    """ME-PPL_50 in so many batches, from the edited layer on."""
    rest = size.depth - shape.layer
    once = passed(size, rest, tokens / batches, tokens / batches, launches)
    return Work(*(batches * each for each in once))


def parts(shape: Shape) -> dict[str, Work]:
    """The parts of an edit; of a search, one step."""
    size, (ours, published) = size_of(shape), steps_of(shape.config)
    forward = published.below
    judge = passed(size, size.depth, JUDGED, JUDGED, forward)
    watches = {f"watch in {n}": watched(shape, size, forward, n, t) for n, t in WATCHED.items()}
    return watches | {
        "step": search_step(shape, size, ours, 1),
        "published step": published_step(shape, size, published),
        "step together": search_step(shape, size, ours, TOGETHER),
        "record": passed(size, size.depth, TEXTS * LENGTH, 0, forward),
        "judge": Work(*(2 * each for each in judge)),
        "solve": Work(bytes=2 * 8 * size.width**2 + 12 * 4 * size.edited, launches=60),
        # copies of a sweep fill batches of 2,048 tokens
        "watch together": watched(shape, size, forward, WATCHED[6] / 2048, WATCHED[6]),
    }


def row(shape: Shape, card: Card) -> list[str]:
    """One line of the table, in milliseconds; hours for all of CounterFact."""
    work = parts(shape)
    published = STEPS * work["published step"].seconds(card)
    eager, graphed = (STEPS * work["step"].seconds(card, way) for way in (EAGER, GRAPHED))
    watch, batches = min((work[f"watch in {n}"].seconds(card), n) for n in WATCHED)
    record, judge, solve = (work[name].seconds(card) for name in ("record", "judge", "solve"))
    searched = STEPS * work["step together"].seconds(card, GRAPHED) + record
    together = searched / TOGETHER + work["watch together"].seconds(card) + judge + solve
    rest, step = record + watch + judge + solve, work["step"]
    parts_of_it = published, eager, graphed, record, watch, judge, solve
    times = *parts_of_it, eager + rest, graphed + rest, together
    shown = [f"{1000 * seconds:.0f}" for seconds in times]
    shown[4] += f" ({batches})"
    counts = f"{step.operations / 1e12:.2f}", f"{step.bytes / 1e9:.1f}", f"{step.launches:,}"
    return [shape.name, card.name, *counts, *shown, f"{21919 * together / 3600:.1f}"]


def table() -> str:
    """The rows of all shapes and cards, in Markdown."""
    head = [
        *("model, layer", "GPU", "step: 10¹² operations", "GB", "launches"),
        *("20 steps, published", "ours", "with graphs", "record", "watch", "judge", "solve"),
        *("edit", "with graphs", "edit of a sweep", "21,919 cases, h"),
    ]
    return markdown(head, [row(shape, card) for shape in PAPERS for card in CARDS])


def main() -> None:
    """Writes the table into the page."""
    torch.set_num_threads(1)  # the models are tiny
    fill("expected", COMMAND, table())


if __name__ == "__main__":
    main()
