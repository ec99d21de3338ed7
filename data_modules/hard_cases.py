"""Hard requests, each of which collapses a model as a single edit, and normal ones."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from .edit_requests import EditingDataModule
from .embedded import embedded_hard_cases
from .forms.readers import read_union
from .records import EditRequest, one_word_first


class SampledDataModule(EditingDataModule):
    """An editing run's data: its hard requests, normal ones, or both.

    Normal ones are neither hard nor of a kind that hard ones belong to: one-word subjects that
    begin the prompt (GPT-2-XL, GPT-J), and subjects that end in a full stop (Llama2-7b).

    Args:
        sample: which of them; with both, the hard ones come first. The limit counts hard ones.
            They are drawn with a seed; without one they are the first of the data.
        normal_cases: number of normal ones; as many as hard ones if null.

    Raises:
        ValueError: if the number of normal cases is not positive.
    """

    def __init__(
        self,
        sample: Literal["hard", "normal", "both"] = "hard",
        normal_cases: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if normal_cases is not None and normal_cases <= 0:
            raise ValueError(f"normal_cases must be positive, got {normal_cases}")
        self.sample = sample
        self.normal_cases = normal_cases
        self.chosen_by: dict[str, str] = {}

    @abstractmethod
    def hard_among(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """The hard ones, in order; ``chosen_by`` says how they were found."""

    def limited(self, requests: list[EditRequest]) -> list[EditRequest]:
        """The sample.

        Raises:
            ValueError: if none of the requests is hard, or too few are normal.
        """
        hard = self.hard_among(requests)
        for model, how in self.chosen_by.items():
            rank_zero_info(f"Hard cases of {model}: {how}")
        apart = set(hard)
        normal = [r for r in requests if r not in apart and not of_hard_kind(r)]
        if not hard or (self.sample != "hard" and len(normal) < (self.normal_cases or 1)):
            few = "" if self.normal_cases is None else f"{self.normal_cases} "
            raise ValueError(
                f"{self.path}: {len(hard)} of its requests are hard and {len(normal)} normal, but "
                f"{few}{self.sample} ones are needed; give the data that the hard cases are from"
            )
        hard = hard[: self.limit]
        normal = normal[: len(hard) if self.normal_cases is None else self.normal_cases]
        return {"hard": hard, "normal": normal, "both": hard + normal}[self.sample]


class HardCasesDataModule(SampledDataModule):
    """Requests that a single-edit sweep found hard, or as many normal ones from its data.

    Args:
        hard: ``hard_cases.json`` of one sweep or several; if null the embedded ones, which are
            hard for the embedded model under ROME.
    """

    def __init__(self, hard: str | list[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if hard is None and self.path is not None:
            raise ValueError(
                f"the embedded hard cases are not from {self.path}: name with --data.hard the "
                "hard_cases.json of a sweep over it"
            )
        self.hard = hard

    def hard_among(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """The requests named by a sweep."""
        named = embedded_hard_cases() if self.hard is None else read_union(self.hard)
        known = {(request.case_id, request.text) for request in named}
        found = [request for request in requests if (request.case_id, request.text) in known]
        name = "the embedded model" if self.hard is None else f"the sweeps of {self.hard}"
        self.chosen_by = {name: f"{len(found)} of {len(known)}, by what single edits did"}
        return found


def of_hard_kind(request: EditRequest) -> bool:
    """Whether a request is of a kind that hard ones belong to, judged only by its words."""
    return one_word_first(request.prompt, request.subject) or request.subject.endswith(".")
