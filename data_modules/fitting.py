"""Which requests and texts a model can take, checked before the run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from .records import EditRequest, TaskItem

SURELY_TWO = 64  # characters of a text that no tokenizer encodes as a single token
SPECIAL = 8  # maximum tokens that a tokenizer puts around a text


class Reach(Protocol):
    """Limits of a model and its method; ``language_model.reach`` has one."""

    lm: str
    method: str
    needs_subject: bool
    positions: int | None
    before: int

    def tokens(self, prompt: str, target: str = "") -> int:
        """Number of tokens of a prompt and its target, including special tokens."""

    def watched_tokens(self, text: str) -> int:
        """Number of tokens of a watched text, which has no special tokens."""


def fitting(
    requests: Sequence[EditRequest], reach: Reach, skip_faulty: bool = False
) -> list[EditRequest]:
    """The requests, if the model and its method can take all of them.

    Args:
        requests: to edit.
        reach: the model's.
        skip_faulty: skip unfit ones, with a warning.

    Raises:
        ValueError: if one is unfit and may not be skipped, or none is left.
    """
    faults = {r: fault for r in requests if (fault := next(faults_of(r, reach), None))}
    if not faults:
        return list(requests)
    counted = f"{len(faults)} of {len(requests)} requests cannot be edited; the first"
    said = next(iter(faults.values()))
    if not skip_faulty:
        raise ValueError(
            f"{counted}: {said}; correct them, or leave such requests out with "
            "--data.skip_faulty true"
        )
    rank_zero_warn(f"{counted} one skipped: {said}")
    kept = [request for request in requests if request not in faults]
    if not kept:
        raise ValueError(f"{counted}: {said}; none is left")
    return kept


def faults_of(request: EditRequest, reach: Reach) -> Iterator[str]:
    """Reasons why a request cannot be edited and judged."""
    if reach.needs_subject and not request.subject:
        yield (
            f"{reach.method} edits at the last token of a subject, and case {request.case_id} "
            f'({request.text!r:.80}) names none, nor does it show one: give it a "subject", or '
            "--data.subjects; methods that need none are FT, LocFT-BF, MEND and UltraEdit"
        )
    if reach.positions is None:
        return
    room = reach.positions - reach.before
    for name, prompt, answers in _judged(request):
        long = [
            a for a in answers if len(prompt) + len(a) + SPECIAL > room or not _plain(prompt, a)
        ]
        length = max((reach.tokens(prompt, answer) for answer in long), default=0)
        if length > room:
            context = f", and {reach.before} before it" if reach.before else ""
            yield (
                f"{name} of case {request.case_id} has {length} tokens with its answer{context}, "
                f"but {reach.lm!r} reads {reach.positions}"
            )


def _judged(request: EditRequest) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, prompt and answers of each question of a request."""
    both = (request.target_new, request.target_true)
    yield "the prompt", request.text, both
    for number, prompt in enumerate(request.paraphrases, 1):
        yield f"paraphrase {number}", prompt, both
    for number, prompt in enumerate(request.attributes, 1):
        yield f"attribute prompt {number}", prompt, both
    for kind, probes in (("neighbor", request.neighborhood), ("question", request.portability)):
        for number, probe in enumerate(probes, 1):
            answers = (probe.answer, *probe.accepted, request.target_new)
            yield f"{kind} {number}", probe.prompt, answers


def _plain(prompt: str, answer: str) -> bool:
    """Whether texts have no more tokens than characters with any tokenizer."""
    return prompt.isascii() and answer.isascii()


def scorable(
    texts: Iterable[str], limit: int | None, source: str, reach: Reach | None
) -> list[str]:
    """The first watched texts with at least two tokens, so that one can be predicted.

    Warnings count the texts left out and those longer than the model's positions.

    Args:
        texts: blank ones are empty.
        limit: maximum number of texts; all if null.
        source: of the texts.
        reach: the model's; None if unknown.
    """
    kept: list[str] = []
    blank = single = 0
    for text in texts:
        if not text:
            blank += 1
        elif reach and len(text) < SURELY_TWO and reach.watched_tokens(text) < 2:
            single += 1
        else:
            kept.append(text)
            if len(kept) == limit:
                break
    if blank or single:
        rank_zero_warn(
            f"{source}: watched texts that cannot be scored are left out: {blank} null or blank, "
            f"{single} of a single token"
        )
    long = sum(is_long(text, reach) for text in kept) if reach else 0
    if reach and long:
        rank_zero_info(
            f"{source}: {long} watched texts are longer than the {reach.positions} positions of "
            f"{reach.lm!r} and are scored in windows of that length"
        )
    return kept


def is_long(text: str, reach: Reach) -> bool:
    """Whether a text has more tokens than the model reads at once."""
    if reach.positions is None or (text.isascii() and len(text) + SPECIAL <= reach.positions):
        return False
    return reach.watched_tokens(text) > reach.positions


def say_cut(tasks: Mapping[str, Sequence[TaskItem]], reach: Reach) -> None:
    """Reports how many items of tasks are longer than the model reads and lose their beginning."""
    for name, items in tasks.items():
        cut = [
            item.number
            for item in items
            if is_long(item.context + max(item.choices, key=len, default=""), reach)
        ]
        if cut:
            rank_zero_info(
                f"{len(cut)} items of {name} are longer than the {reach.positions} positions of "
                f"{reach.lm!r} and lose their beginning, such as record {cut[0]}"
            )
