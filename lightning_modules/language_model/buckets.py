"""Lengths rounded up, so that a few shapes serve all requests: each shape is a CUDA graph."""

from collections.abc import Iterator, Sequence
from itertools import groupby

SUFFIX = 6  # least tokens from the subject on: most requests have at most so many; 12, 24 …
PAST = 32  # least tokens before it
TARGET = 4  # least tokens of a target

Place = tuple[int, int, int, int]


def bucket(length: int, least: int = 1) -> int:
    """The first of ``least`` and its doubles that is not below a length."""
    return least << max(0, -(-length // least) - 1).bit_length()


def evened(places: Sequence[Place], width: int) -> Iterator[Place]:
    """Places of logits, as many in every text, filled up with other places of the same text.

    Args:
        places: text, position from the subject on, target token, and 1; text by text, and a text's
            positions one after the other.
        width: number of positions.

    Yields:
        The same, filled up with places whose last number is 0; no place comes twice.
    """
    texts = [list(group) for _, group in groupby(places, lambda place: place[0])]
    wanted = min(width, bucket(max(map(len, texts)), TARGET))
    for text in texts:
        row, column, _, _ = text[0]
        yield from text
        for more in range(len(text), wanted):
            yield row, (column + more) % width, 0, 0


def remaining(searching: list[int], computed: list[int]) -> list[int]:
    """Which requests a pass computes: those that still search first, others to a power of two.

    Args:
        searching: the requests whose searches go on.
        computed: those of the pass before.
    """
    others = [number for number in computed if number not in searching]
    return (searching + others)[: bucket(len(searching))]
