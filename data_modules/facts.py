"""A user's own facts to edit, and the project's own texts for what a user lacks."""

from collections.abc import Iterator

from .edit_requests import EditingDataModule
from .embedded import embedded_requests, embedded_sentences
from .records import EditRequest, Probe
from .selection import first

EXAMPLE = 10


class Facts(EditingDataModule):
    """Facts that are all to hold at the end; two that contradict each other are refused.

    Without a file they are ten of the embedded facts, an example.
    """

    def setup(self, stage: str) -> None:
        """Reads the facts.

        Raises:
            ValueError: if two of them want different answers to one prompt.
        """
        super().setup(stage)
        wanted: dict[str, EditRequest] = {}
        for request in self.requests:
            other = wanted.setdefault(request.text.casefold(), request)
            if other.target_new != request.target_new:
                raise ValueError(
                    f"two facts contradict each other: cases {other.case_id} and "
                    f"{request.case_id} complete {request.text!r} with {other.target_new!r} and "
                    f"{request.target_new!r}; keep one of them"
                )

    def limited(self, requests: list[EditRequest]) -> list[EditRequest]:
        """All facts of a file up to the limit; few of the embedded ones."""
        example = EXAMPLE if self.path is None and self.case_ids is None else None
        return first(requests, self.limit or example)

    def control_probes(self) -> list[Probe]:
        """Questions about subjects that no fact names, one relation after another."""
        subjects = {request.subject for request in self.requests}
        by_relation: dict[str, list[Probe]] = {}
        for known in embedded_requests():
            if known.subject not in subjects:
                probe = Probe(known.text, known.target_true)
                by_relation.setdefault(known.prompt, []).append(probe)
        return [probes[0] for probes in by_relation.values()]

    def plain_text(self) -> Iterator[str]:
        """The project's own text: the embedded sentences, and the embedded facts as sentences."""
        yield from embedded_sentences()
        for known in embedded_requests():
            for prompt in (known.text, *known.paraphrases):
                yield f"{prompt} {known.target_true}."
