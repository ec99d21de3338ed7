"""Which of a dataset's requests a run edits, and which it edits together."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain

from .records import EditRequest


def selection(
    requests: Sequence[EditRequest], case_ids: Sequence[int] | None, seed: int | None
) -> list[EditRequest]:
    """Requests of the selected cases in the given order, then shuffled if there is a seed.

    If a dataset uses a number twice (QAEdit does), all its requests are kept. Requests of one edit
    stay together.

    Raises:
        ValueError: if a selected case has no request, or no case is selected.
    """
    if case_ids is not None:
        unknown = sorted(set(case_ids) - {request.case_id for request in requests})
        if unknown:
            raise ValueError(f"case_ids {unknown} are not in the dataset; remove them")
        if not case_ids:
            raise ValueError("case_ids is empty, so no request is left; name one or give null")
        place = {case_id: number for number, case_id in enumerate(case_ids)}
        requests = [request for request in requests if request.case_id in place]
        requests.sort(key=lambda request: place[request.case_id])
    if seed is None:
        return list(requests)
    edits = edits_of(requests)
    return [r for edit in random.Random(seed).sample(edits, len(edits)) for r in edit]


def first(requests: Sequence[EditRequest], limit: int | None) -> list[EditRequest]:
    """The requests of the first ``limit`` edits; all if null."""
    return [request for edit in edits_of(requests)[:limit] for request in edit]


def batches_of(requests: Sequence[EditRequest], size: int) -> list[list[EditRequest]]:
    """Batches with the requests of ``size`` edits each."""
    edits = edits_of(requests)
    return [list(chain(*edits[at : at + size])) for at in range(0, len(edits), size)]


def edits_of(requests: Sequence[EditRequest]) -> list[list[EditRequest]]:
    """Requests one by one, but those of one edit together in one list."""
    edits: list[list[EditRequest]] = []
    for request in requests:
        if request.joined and edits:
            edits[-1].append(request)
        else:
            edits.append([request])
    return edits


def doubts(requests: Sequence[EditRequest]) -> Iterator[str]:
    """Oddities among the requests of a run, one sentence per kind.

    Two may want different answers to the same prompt, a case number may stand for several facts,
    and a new answer may be the true one.
    """
    facts, cases = defaultdict(list), defaultdict(set)
    for request in requests:
        facts[request.text].append(request)
        if not request.joined:
            cases[request.case_id].add((request.text, request.target_new))
    opposed = [found for found in facts.values() if len({r.target_new for r in found}) > 1]
    if opposed:
        one = opposed[0][0]
        other = next(r for r in opposed[0] if r.target_new != one.target_new)
        yield (
            f"{len(opposed)} prompts are edited to different answers, such as cases {one.case_id} "
            f"and {other.case_id}, which complete {one.text!r} with {one.target_new!r} and "
            f"{other.target_new!r}: a later edit undoes the earlier one"
        )
    shared = [case for case, found in cases.items() if len(found) > 1]
    if shared:
        yield (
            f"{len(shared)} case numbers stand for several requests, such as {shared[0]}: in the "
            "journal, tell them apart by their prompts"
        )
    same = [request.case_id for request in requests if request.target_new == request.target_true]
    if same:
        yield (
            f"the new answer of {len(same)} requests is the true one, such as that of case "
            f"{same[0]}: their efficacy is 0 by definition"
        )
