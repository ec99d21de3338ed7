"""What methods share that see an MLP as a memory: contexts, second moments, value search."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

from torch import Tensor

from data_modules.records import EditRequest

from ..editing.collapse_risk import Calibration, load_calibration
from ..editing.second_moments import KIND, load_second_moment
from ..functional.rank_one import factorize
from ..functional.value_search import FoundValue, ValueSearchOptions
from ..language_model.compilation import Compilation
from ..language_model.keys import Keyed, first_token_keys
from ..language_model.layout import output_weight_name
from ..language_model.loading import artefact_file
from ..language_model.values import Located, Recorded, alike, record_requests, search_values
from .in_context import ContextEditor


class KeyValueEditor(ContextEditor):
    """Edits MLP output maps so that a subject's key maps to a value that was searched for it.

    Args:
        layers: the edited layers; values are searched at the last one.
        value: how values are searched.
        second_moment: ``estimated`` uses the keys' second moment C, as the papers' equations do;
            ``identity`` leaves it out, as their released configuration does.
        statistics: file of second moments; by default the place where
            ``key-statistics.yaml`` puts those of this model.
        calibration: file of ``papers/risk-calibration.yaml`` that makes a probability of collapse
            of the risk; by default the embedded model's own, of its default method.
        search_together: requests whose values are searched in one batch, at most; bounds memory.
        compile_search: whether the model is compiled for the search, with CUDA graphs on a GPU; the
            first searches take minutes more, and a CPU gains nothing. Where compilation fails, a
            warning says so and the search runs uncompiled.
    """

    def __init__(
        self,
        layers: Sequence[int],
        value: ValueSearchOptions = ValueSearchOptions(),  # noqa: B008 - frozen
        second_moment: Literal["estimated", "identity"] = "estimated",
        statistics: str | None = None,
        calibration: str | None = None,
        search_together: int = 8,
        compile_search: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not layers:
            raise ValueError("layers is empty; name at least one")
        self.layers = sorted(set(layers))
        self.value = value
        self.second_moment = second_moment
        self.statistics = statistics
        self.calibration_file = calibration
        self.calibration: Calibration | None = None
        self.search_together = search_together
        self.compile_search = compile_search
        self.compilation: Compilation | None = None
        self.located: list[Located] = []
        self.ahead: dict[EditRequest, tuple[Located, FoundValue]] = {}

    @property
    def value_layer(self) -> int:
        """The layer at whose output values are searched."""
        return self.layers[-1]

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers."""
        return [output_weight_name(self.lm, layer) for layer in self.layers]

    def prepare(self) -> None:
        """Samples the context templates, loads the second moments and factorizes them."""
        super().prepare()
        self.compilation = Compilation(self.lm) if self.compile_search else None
        self.calibration = load_calibration(self.calibration_file, self.lm_name, self.card())
        self.factors: dict[int, Tensor | None] = {}
        for layer in self.layers:
            moment = self.load_moment(layer)
            self.protect(layer, None if moment is None else moment.to(self.device))

    def load_moment(self, layer: int) -> Tensor | None:
        """The second moment of a layer's keys, ``(f, f)``; None stands for the identity."""
        if self.second_moment == "identity":
            return None
        return load_second_moment(self.statistics, self.lm_name, self.fingerprint, layer)

    @property
    def keeps_moments(self) -> bool:
        """Whether second moments take up memory."""
        return self.second_moment == "estimated"

    def needs(self) -> dict[str, str]:
        """Second moments of the edited layers."""
        if not self.keeps_moments:
            return {"second moment": "left out"}
        try:
            for layer in self.layers:
                self.load_moment(layer)
        except (FileNotFoundError, ValueError) as error:
            return {"second moment": f"MISSING: {error}"}
        file = artefact_file(KIND, self.statistics, self.lm_name, self.fingerprint)
        return {"second moment": f"found, of layers {self.layers} in {file}"}

    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Keeps what protects a layer's old keys; here the Cholesky factor ``(f, f)`` of C."""
        self.factors[layer] = None if moment is None else factorize(moment)

    def locate(
        self, requests: Sequence[EditRequest], contexts: Sequence[str] | None = None
    ) -> list[Located]:
        """Each request's keys and values in every context, or in those given."""
        return [
            located
            for together in self.groups(requests)
            for located in self.recorded(together, contexts or self.contexts).located
        ]

    def seek(self, requests: Sequence[EditRequest]) -> list[tuple[Located, FoundValue]]:
        """The same, and the value that makes every context answer with the target."""
        if all(request in self.ahead for request in requests):
            return [self.ahead[request] for request in requests]
        sought: dict[int, tuple[Located, FoundValue]] = {}
        groups = alike(self.tokenizer, requests, self.search_together)
        for numbers in islice(groups, self.share.rank, None, self.share.devices):
            recorded = self.recorded([requests[n] for n in numbers], self.contexts)
            found = self.searched(recorded)
            sought |= zip(numbers, zip(recorded.located, found, strict=True), strict=True)
        sought = self.share.joined(sought, self.device)
        return [sought[number] for number in range(len(requests))]

    def searched(self, recorded: Recorded) -> list[FoundValue]:
        """The values found for recorded requests, by a compiled model if one is asked for."""

        def search() -> list[FoundValue]:
            return search_values(self.lm, self.value_layer, recorded, self.value)

        return search() if self.compilation is None else self.compilation(search)

    def look_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Seeks the values of coming edits together."""
        requests = [request for batch in batches for request in batch]
        self.ahead = {}
        self.ahead = dict(zip(requests, KeyValueEditor.seek(self, requests), strict=True))

    def make_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Makes coming edits; the values that served them are forgotten."""
        super().make_ahead(batches)
        self.ahead = {}

    def groups(self, requests: Sequence[EditRequest]) -> list[Sequence[EditRequest]]:
        """The requests in as many parts as memory asks for."""
        size = self.search_together
        return [requests[at : at + size] for at in range(0, len(requests), size)]

    def recorded(self, requests: Sequence[EditRequest], contexts: Sequence[str]) -> Recorded:
        """The requests' texts as the model sees them up to the value."""
        return record_requests(self.lm, self.tokenizer, self.value_layer, contexts, requests)

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """What each edit would risk, without searching a value or editing."""
        self.located = self.locate(batch)
        return [
            {"case_id": r.case_id, "subject": r.subject, "prompt": r.prompt, **self.risk(located)}
            for r, located in zip(batch, self.located, strict=True)
        ]

    def keyed(self, batch: Sequence[EditRequest]) -> list[Keyed]:
        """The kinds of keys of the requests that :meth:`predict_step` has located."""
        firsts, places = first_token_keys(self.lm, self.tokenizer, self.value_layer, batch)
        found = []
        for request, located, first, at in zip(batch, self.located, firsts, places, strict=True):
            keys = self.key_kinds(request, located) | {"first": first}
            cpu = {kind: key.float().cpu() for kind, key in keys.items()}
            found.append(Keyed(request, located.subject_position == at, cpu))
        return found

    def key_kinds(self, request: EditRequest, located: Located) -> dict[str, Tensor]:
        """A request's keys at its subject, ``(f,)`` each, by kind."""
        kinds = {"plain": located.keys[0], "mean": located.keys.mean(0)}
        if len(self.contexts) > 1:
            kinds["prefixed"] = located.keys[self.context_of(request)]
        return kinds

    def risk(self, located: Located) -> dict[str, Any]:
        """Cosine of plain and mean key, and place of the subject's last token."""
        return self.foretold(located.figures)

    def foretold(self, figures: dict[str, Any]) -> dict[str, Any]:
        """Figures known before a search, with the probability of collapse if they tell it."""
        found = self.calibration.probability(figures) if self.calibration is not None else None
        return figures if found is None else {**figures, "collapse_probability": found}

    def figures(self, located: Located, found: FoundValue) -> dict[str, Any]:
        """What the journal keeps of one request's search."""
        figures: dict[str, Any] = {
            "value_loss": found.losses[-1],
            "value_steps": len(found.losses),
            **located.figures,
        }
        if self.value.stop == "goal" and found.losses[-1] >= self.value.goal:
            figures["reason"] = (
                f"value search ended at loss {found.losses[-1]:.3g}, above its goal "
                f"{self.value.goal:g}"
            )
        return figures

    def card(self) -> dict[str, Any]:
        """Adds layers, second moment, search options and context templates."""
        return super().card() | {
            "layers": self.layers,
            "second_moment": self.second_moment,
            "value": asdict(self.value),
        }
