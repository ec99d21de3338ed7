"""The sink atlas: where a model is dangerous to edit, and for which tokens."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..editing.edited_weights import EditedWeights, Update
from ..editing.editor import Editor
from ..editing.known import known_of_both_kinds
from ..editing.search import Sought
from ..editing.second_moments import load_second_moment
from ..editing.watched import WatchedModel
from ..language_model.apart import edited_apart
from ..language_model.layout import blocks, output_map
from ..language_model.lower_states import LowerStates
from ..language_model.scoring import Batching, score
from ..language_model.sinks import attention_on_first, text_states
from ..language_model.tokens import Span, target_span, text_span

Moment = Literal["identity", "estimated"]
Row = dict[str, Any]
BATCH_TOKENS = 2048
FIGURES = (
    *("denominator", "denominator_relative", "key_cosine", "numerator_norm"),
    *("value_loss", "value_unconverged"),
)


class SinkAtlas(WatchedModel):
    """Under ``predict``, edits a few known facts in every layer under each key policy.

    A policy is a rank-one method, such as ROME. The value search does not depend on the keys, so
    one search per layer and request serves all policies and second moments, save those that record
    other values. All these edits are then evaluated together, beside the weights, which stay
    unchanged.

    Args:
        methods: the policies, with a layer as their first option.
        layers: layers to study; every ``stride``-th of the model if null.
        stride: distance between layers.
        second_moments: that the edits are made with; ``estimated`` is left out in layers whose
            statistics are missing.
        statistics: file of second moments; by default that of this model.
        first: edited facts whose subject is one token at the prompt's beginning.
        normal: other edited facts.

    Raises:
        ValueError: if a number is not positive, or there is no method.
    """

    def __init__(
        self,
        methods: list[Callable[[Any], Editor]],
        layers: list[int] | None = None,
        stride: int = 1,
        second_moments: Sequence[Moment] = ("identity", "estimated"),
        statistics: str | None = None,
        first: int = 3,
        normal: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        numbers = {"methods": len(methods), "stride": stride, "first": first, "normal": normal}
        for name, number in numbers.items():
            if number <= 0:
                raise ValueError(f"{name} must be positive, got {number}")
        self.methods, self.layers, self.stride = methods, layers or [], stride
        self.second_moments, self.statistics = second_moments, statistics
        self.wanted = {True: first, False: normal}
        self.watched: list[str] = []
        self.told: Callable[[list[Row]], None] = lambda rows: None
        self.chosen: dict[EditRequest, bool] = {}
        self.templates: list[str] = []
        self.profile: list[Row] = []

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes a model.

        Raises:
            ValueError: if a layer does not exist.
        """
        self.layers = self.layers or list(range(0, len(blocks(lm)), self.stride))
        for layer in self.layers:
            output_map(lm, layer)
        super().attach(lm, tokenizer)
        self.edited = EditedWeights(lm, [])

    def layers_under_edit(self) -> list[int]:
        """Nothing stays edited; a caller may want hidden states from the first layer on."""
        return [0]

    def on_predict_start(self) -> None:
        """Chooses the facts, and measures norms and attention on the watched texts.

        Raises:
            ValueError: if the model knows no fact of one of the two kinds.
        """
        loader: Any = self.trainer.predict_dataloaders
        asked = [request for batch in loader for request in batch]
        self.chosen = known_of_both_kinds(self, asked, self.wanted)
        self.spans = [text_span(self.tokenizer, text) for text in self.watched]
        rows = [span.tokens for span in self.spans]
        self.states, shares = text_states(self.lm, rows), attention_on_first(self.lm, rows)
        if shares is None:
            rank_zero_warn(
                f"{self.lm.config.model_type!r} returns no attention weights, so the share of "
                "attention on position 0 is left out"
            )
        self.profile = [
            {"layer": layer, **self.states.norms(layer)}
            | ({} if shares is None else {"attention": shares[layer]})
            for layer in range(len(self.states.keys))
        ]
        watched = score(self.lm, self.spans).nll
        self.baseline = {"perplexity": float(watched.exp().mean())}

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[Row]:
        """A row for every layer, chosen fact of the batch, method and second moment."""
        requests = [request for request in batch if request in self.chosen]
        if not requests:
            return []
        with torch.inference_mode(False), torch.enable_grad():
            return [row for layer in self.layers for row in self.studied(layer, requests)]

    def studied(self, layer: int, requests: Sequence[EditRequest]) -> list[Row]:
        """The rows of a layer."""
        editors = self.editors(layer)
        searches: dict[Any, list[Sought]] = {}
        for editor in editors:  # which texts and values a search starts from decides what it finds
            if type(editor).recorded not in searches:
                searches[type(editor).recorded] = editor.seek(requests)
        lower = LowerStates(layer, self.watch_memory * 2**30, self.watch_host_memory * 2**30)
        rows = []
        for number, request in enumerate(requests):
            about = {"case_id": request.case_id, "layer": layer, "first": self.chosen[request]}
            found = [searches[type(editor).recorded][number] for editor in editors]
            made = [self.made(layer, *pair) for pair in zip(editors, found, strict=True)]
            harms = self.harms(request, [update for update, _ in made], lower)
            rows += [about | own | harm for (_, own), harm in zip(made, harms, strict=True)]
        self.told(rows)
        return rows

    def editors(self, layer: int) -> list[Any]:
        """Every method with every second moment that there is, prepared in a layer.

        Raises:
            ValueError: if a method has no policy for its keys.
        """
        made = []
        for moment in self.second_moments:
            if moment == "estimated" and not self.has_statistics(layer):
                continue
            for method in self.methods:
                editor: Any = method(layer)
                if not hasattr(editor, "choose_keys"):
                    raise ValueError(
                        f"{type(editor).__name__} is no rank-one method; the atlas compares those, "
                        "such as ROME and ConsistentROME"
                    )
                editor.second_moment, editor.statistics = moment, self.statistics
                editor.borrow(cast(Editor, self))
                editor.contexts.templates = self.templates
                editor.prepare()
                self.templates = editor.contexts.templates
                made.append(editor)
        return made

    def has_statistics(self, layer: int) -> bool:
        """Whether a layer's second moment is there; says so if not."""
        try:
            load_second_moment(self.statistics, self.lm_name, self.fingerprint, layer)
        except (FileNotFoundError, ValueError) as error:
            rank_zero_info(f"layer {layer} is studied without estimated moment: {error}")
            return False
        return True

    def made(self, layer: int, editor: Any, sought: Sought) -> tuple[Update, Row]:
        """A method's update, and figures of it.

        ``danger`` is known before any search: the largest residual that the search may find, times
        the leverage on ordinary tokens; above 1 such a token moves by more than its hidden state.
        """
        editor.record, (located, found) = {}, sought
        update = editor.update(located, found)
        chosen = editor.choose_keys(located.keys, located.values)
        offset = float((located.values[0] - chosen.value).norm())
        leverage = self.states.leverage(layer, cast(Tensor, update.right)[0], chosen.key)
        largest = offset + editor.search.options.longest(located.values[0])
        return update, {
            "method": type(editor).__name__,
            "second_moment": editor.second_moment,
            "danger": largest * leverage["leverage_rest"],
            **leverage,
            **{name: editor.record[name] for name in FIGURES},
            "update_norm": float(update.left.norm()),
            "target_probability": math.exp(found.target_log_prob),
        }

    def harms(
        self, request: EditRequest, updates: Sequence[Update], lower: LowerStates
    ) -> list[Row]:
        """Perplexity and the request's answers under each of several edits."""
        spans = [*self.spans, *self.questions(request)]
        terms: dict[str, Sequence[tuple[Tensor, Tensor]]] = {
            updates[0].weight: [(u.left, cast(Tensor, u.right)) for u in updates]
        }
        together = len(updates)
        score(self.lm, spans, Batching(BATCH_TOKENS // together), lower)  # records what lies below
        with edited_apart(self.lm, terms):
            scores = score(self.lm, spans, Batching(BATCH_TOKENS), lower, copies=together)
        nll = scores.nll.view(together, -1)
        stated = (scores.greedy == scores.length).view(together, -1)
        texts = len(self.spans)
        return [
            {
                "perplexity": float(own[:texts].exp().mean()),
                "efficacy": float(own[texts] < own[texts + 1]),
                "stated": float(right[texts]),
                "efficacy_prefixed": float(own[texts + 2] < own[texts + 3]),
                "stated_prefixed": float(right[texts + 2]),
            }
            for own, right in zip(nll, stated, strict=True)
        ]

    def questions(self, request: EditRequest) -> list[Span]:
        """New and true answer, to the plain prompt and behind the last context."""
        prompts = request.text, self.templates[-1].replace("{}", request.text, 1)
        answers = request.target_new, request.target_true
        return [target_span(self.tokenizer, p, answer) for p in prompts for answer in answers]

    def card(self) -> dict[str, Any]:
        """Adds layers, contexts and facts."""
        return super().card() | {
            "layers": self.layers,
            "contexts": self.templates,
            "case_ids": [request.case_id for request in self.chosen],
            "watched": len(self.watched),
        }
