"""The base of methods that see an MLP as a memory: a subject's key maps to a value."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..editing.collapse_risk import CollapseRisk
from ..editing.contexts import Contexts
from ..editing.editor import Editor
from ..editing.key_kinds import key_kinds, keyed
from ..editing.layer_choice import Auto, chosen_layers, given_layers
from ..editing.norm_anchors import load_anchor
from ..editing.prefixes import PromptPrefix
from ..editing.search import Sought, ValueSearch
from ..editing.search_outcome import learnable_layer, search_figures
from ..editing.second_moments import found_or_missing, load_second_moment
from ..functional.rank_one import factorize
from ..functional.value_search import FoundValue, ValueSearchOptions
from ..language_model.keys import Keyed, subject_states
from ..language_model.layout import blocks, output_weight_name
from ..language_model.values import Located, Recorded, key_cosine, record_requests


class KeyValueEditor(Editor):
    """Edits MLP output maps so that a subject's key maps to the value found for it.

    Args:
        layers: the edited layers; values are searched at the last one. ``auto`` takes those that a
            study or trace found, ``usual`` too, else a third; null is for the embedded model.
        value: how values are searched.
        contexts: number of context templates by their length in tokens, besides the plain one; by
            default as in the method's paper.
        test_prefix: which prompts are evaluated after a context.
        second_moment: ``estimated`` uses the keys' second moment C, as the papers' equations do;
            ``identity`` leaves out its directions, as their released configuration does.
        statistics: file of second moments; by default the place where
            ``key-statistics.yaml`` puts those of this model.
        calibration: file written by ``papers/risk-calibration.yaml``, from which the collapse
            probability is computed; by default that of the embedded model and its default method.
        search_together: most requests whose values are searched in one batch; bounds memory.
        compile_search: compile the model for the search, with CUDA graphs on a GPU; the first
            searches take minutes more. If that fails, a warning says so and it runs uncompiled.
    """

    auto_width = 1
    embedded_layers: Sequence[int] = (1,)
    usual_contexts: Mapping[int, int] = {5: 10, 10: 10}

    def __init__(
        self,
        layers: Sequence[int] | Auto | None,
        value: ValueSearchOptions = ValueSearchOptions(),  # noqa: B008 - frozen
        contexts: dict[int, int] | None = None,
        test_prefix: PromptPrefix = PromptPrefix(),  # noqa: B008 - frozen
        second_moment: Literal["estimated", "identity"] = "estimated",
        statistics: str | None = None,
        calibration: str | None = None,
        search_together: int = 8,
        compile_search: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.wanted_layers = layers
        chosen: Sequence[int] | Auto = given_layers(self, layers, self.embedded_layers)
        self.layers: list[int] = [] if isinstance(chosen, str) else sorted(set(chosen))
        lengths = self.usual_contexts if contexts is None else contexts
        self.contexts = Contexts(lengths, test_prefix, self.seed)
        self.search = ValueSearch(value, search_together, compile_search)
        self.risk = CollapseRisk(calibration)
        self.second_moment = second_moment
        self.statistics = statistics
        self.factors: dict[int, Tensor | None] = {}
        self.located: list[Located] = []

    def choose_layers(self) -> None:
        """Looks up the layers that ``auto`` stands for."""
        where = self.lm_name, self.fingerprint, len(blocks(self.lm))
        self.layers = chosen_layers(self.wanted_layers or self.layers, self.auto_width, *where)

    @property
    def value_layer(self) -> int:
        """The layer at whose output values are searched."""
        return self.layers[-1]

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers."""
        return [output_weight_name(self.lm, layer) for layer in self.layers]

    def tokens_before(self) -> int:
        """Those of the longest context."""
        return self.contexts.longest()

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes the model to edit, and passes it to the search."""
        super().attach(lm, tokenizer)
        self.search.attach(lm, tokenizer, self.value_layer)

    def borrow(self, owner: Editor) -> None:
        """Takes the model of another editor, and passes it to the search."""
        super().borrow(owner)
        if self.wanted_layers is None or isinstance(self.wanted_layers, str):
            self.wanted_layers = owner.layers_under_edit()[-self.auto_width :]
        self.choose_layers()
        self.search.attach(self.lm, self.tokenizer, self.value_layer)

    def prepare(self) -> None:
        """Samples the context templates, loads the second moments and factorizes them."""
        super().prepare()
        self.contexts.sample(self.lm, self.tokenizer)
        self.risk.load(self.lm_name, self.card())
        where = self.lm_name, self.fingerprint, self.value_layer
        self.search.anchor = load_anchor(self.search.options, *where)
        for layer in self.layers:
            moment = self.load_moment(layer)
            self.protect(layer, None if moment is None else moment.to(self.device))

    def load_moment(self, layer: int) -> Tensor | None:
        """The second moment of a layer's keys, ``(f, f)``; None stands for the identity."""
        if self.second_moment == "identity":
            return None
        return load_second_moment(self.statistics, self.lm_name, self.fingerprint, layer)

    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Stores what preserves a layer's old keys: the Cholesky factor ``(f, f)`` of C."""
        self.factors[layer] = None if moment is None else factorize(moment)

    @property
    def keeps_moments(self) -> bool:
        """Whether second moments take up memory."""
        return self.second_moment == "estimated"

    def needs(self) -> dict[str, str]:
        """Second moments of the edited layers."""
        if not self.keeps_moments:
            return {"second moment": "left out"}
        where = self.statistics, self.lm_name, self.fingerprint
        return {"second moment": found_or_missing(self.layers, self.load_moment, *where)}

    def recorded(
        self,
        requests: Sequence[EditRequest],
        templates: Sequence[str] | None = None,
        layer: int | None = None,
    ) -> Recorded:
        """The requests' texts in all or the given contexts, recorded up to the value's layer."""
        among = self.contexts.templates if templates is None else templates
        asked, at = map(self.as_edited, requests), self.value_layer if layer is None else layer
        texts = self.tokenizer, at, among, list(asked)
        return record_requests(self.lm, *texts, self.search.compiled)

    def locate(
        self, requests: Sequence[EditRequest], templates: Sequence[str] | None = None
    ) -> list[Located]:
        """Each request's keys and values in all or the given contexts."""
        parts = self.search.parts(requests)
        return [located for part in parts for located in self.recorded(part, templates).located]

    def seek(self, requests: Sequence[EditRequest]) -> list[Sought]:
        """Keys and values as :meth:`locate` gives them, and the value that the search found."""
        return self.search.seek(requests, self.recorded, self.share, self.device)

    def look_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Searches the values of coming edits together."""
        requests = [request for batch in batches for request in batch]
        self.search.look_ahead(requests, self.recorded, self.share, self.device)

    def make_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Makes coming edits, then drops the values found for them."""
        super().make_ahead(batches)
        self.search.forget()

    def foreseen(self, located: Located) -> dict[str, Any]:
        """Figures of an edit before its value search."""
        return located.figures

    def figures(self, located: Located, found: FoundValue) -> dict[str, Any]:
        """Figures of one request's search for the journal."""
        return search_figures(self.search, located, found)

    def learnable_layer(self, requests: Sequence[EditRequest]) -> int | None:
        """The nearest of a few lower layers where a short search learns the first request."""
        return learnable_layer(self.search, partial(self.recorded, requests[:1]), self.value_layer)

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """The risk of each edit, without a value search or an edit."""
        self.located = self.locate(batch)
        return [
            {
                **{name: getattr(request, name) for name in ("case_id", "subject", "prompt")},
                **self.risk.told(self.foreseen(located)),
            }
            for request, located in zip(batch, self.located, strict=True)
        ]

    def keyed(self, batch: Sequence[EditRequest]) -> list[Keyed]:
        """All kinds of keys of the requests that :meth:`predict_step` located."""
        asked = [self.as_edited(request) for request in batch]
        kinds = [self.key_kinds(*pair) for pair in zip(asked, self.located, strict=True)]
        return keyed(self.lm, self.tokenizer, self.value_layer, asked, self.located, kinds)

    def key_kinds(self, request: EditRequest, located: Located) -> dict[str, Tensor]:
        """A request's keys at its subject, ``(f,)`` each, by kind."""
        return key_kinds(self.contexts, request, located)

    def on_test_start(self) -> None:
        """Samples contexts for the prompts, if no checkpoint holds them."""
        if self.contexts.prefix.policy != "none":
            with self.edited.unedited():
                self.contexts.sample(self.lm, self.tokenizer)

    def worded(self, request: EditRequest) -> EditRequest:
        """The request as it is evaluated; a context put before it goes to the record."""
        template = self.contexts.before(request, self.unedited_key_cosine)
        if template is None:
            return request
        self.record.setdefault("test_prefix", {})[str(request.case_id)] = template
        return self.contexts.prefix.before(request, template)

    def unedited_key_cosine(self, request: EditRequest) -> float:
        """Cosine of a request's plain and mean key in the unedited model."""
        layers, templates = (self.value_layer, self.value_layer), self.contexts.templates
        asked = [self.as_edited(request)]
        with self.edited.unedited():
            states = subject_states(self.lm, self.tokenizer, layers, templates, asked)
        return key_cosine(states.keys[0])

    def card(self) -> dict[str, Any]:
        """Adds layers, second moment, search options and context templates."""
        return super().card() | {
            "layers": self.layers,
            "second_moment": self.second_moment,
            "value": asdict(self.search.options),
            **self.contexts.card(),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the context templates."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["contexts"] = list(self.contexts.templates)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the context templates."""
        super().on_load_checkpoint(checkpoint)
        self.contexts.templates = list(checkpoint["contexts"])
