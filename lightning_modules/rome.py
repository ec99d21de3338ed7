"""ROME: an edit as one rank-one change, under three policies for its keys."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.records import EditRequest

from .editor import Editor, Update
from .functional.rank_one import rank_one_update, whiten
from .functional.value_search import FoundValue, ValueSearchOptions, value_search
from .key_statistics import load_second_moment
from .language_model.contexts import sample_contexts
from .language_model.layout import output_map, output_weight_name
from .language_model.passes import Suffixes, record_suffixes, suffix_logits
from .language_model.tokens import Span, collate, request_span

ESSENCE = "{} is a"


class Recorded(NamedTuple):
    """A request's texts, recorded: one per context template, and the essence prompt last.

    Attributes:
        suffixes: of all texts, ``b = contexts + 1``.
        rows: ``(n,)``, the text of each target token.
        columns: ``(n,)``, where its logits stand, from the subject's last token on.
        targets: ``(n,)``, target tokens.
    """

    suffixes: Suffixes
    rows: Tensor
    columns: Tensor
    targets: Tensor

    @property
    def keys(self) -> Tensor:
        """The key in each context, ``(c, f)``; the first is unprefixed."""
        return self.suffixes.keys[:-1]

    @property
    def values(self) -> Tensor:
        """The value in each context, ``(c, d)``; the first is unprefixed."""
        return self.suffixes.values[:-1]

    @property
    def key_cosine(self) -> float:
        """Cosine of the unprefixed key and the mean key; far below 1 where ROME is dangerous."""
        return float(F.cosine_similarity(self.keys[0], self.keys.mean(0), 0))


class RankOneKeys(NamedTuple):
    """Which key stands where in the update.

    Attributes:
        direction: ``(f,)``, the key behind ``C⁻¹``.
        key: ``(f,)``, the key in the denominator.
        value: ``(d,)``, the present value that the residual starts from.
    """

    direction: Tensor
    key: Tensor
    value: Tensor


class RankOneEditor(Editor):
    """Edits one MLP output map by a rank-one change; a subclass chooses the keys.

    Args:
        lm: ``embedded``, a folder, or a model's name on the hub.
        layer: the edited layer.
        value: how the value is searched.
        second_moment: ``estimated`` uses the keys' second moment C, as the papers' equations do;
            ``identity`` leaves it out, as their released configuration does.
        statistics: file of second moments; by default the place where
            ``key-statistics.yaml`` puts those of this model.
        contexts: how many context templates of how many tokens, beside the plain one.
        dtype: of the model's weights.
        seed: of the context templates.
        trust_remote_code: run code that comes with the model.
    """

    def __init__(
        self,
        lm: str = "embedded",
        layer: int = 2,
        value: ValueSearchOptions = ValueSearchOptions(),  # noqa: B008 - frozen
        second_moment: Literal["estimated", "identity"] = "estimated",
        statistics: str | None = None,
        contexts: dict[int, int] | None = None,
        dtype: str = "float32",
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(lm, dtype, seed, trust_remote_code)
        self.layer = layer
        self.value = value
        self.second_moment = second_moment
        self.statistics = statistics
        self.context_lengths = {5: 10, 10: 10} if contexts is None else contexts
        self.contexts: list[str] = []
        self.save_hyperparameters()

    @abstractmethod
    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """The policy: from keys ``(c, f)`` and values ``(c, d)`` in each context."""

    def edited_weights(self) -> list[str]:
        """The output map of the edited layer."""
        output_map(self.lm, self.layer)
        return [output_weight_name(self.lm, self.layer)]

    def on_fit_start(self) -> None:
        """Makes what edits need."""
        self.prepare()

    def on_predict_start(self) -> None:
        """Makes what edits need."""
        self.prepare()

    def prepare(self) -> None:
        """Samples the context templates and loads the second moment."""
        if not self.contexts:
            generator = torch.Generator().manual_seed(self.seed)
            self.contexts = sample_contexts(
                self.lm, self.tokenizer, self.context_lengths, generator
            )
        self.moment = None
        if self.second_moment == "estimated":
            self.moment = load_second_moment(
                self.statistics, self.lm_name, self.fingerprint, self.layer
            ).to(self.device)

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One rank-one update per request."""
        for request in requests:
            recorded = self.record_request(request)
            found = self.search_value(recorded)
            chosen = self.choose_keys(recorded.keys, recorded.values)
            direction = whiten(chosen.direction[:, None], self.moment)[:, 0]
            residual = recorded.values[0] + found.change - chosen.value
            update = rank_one_update(direction, chosen.key, residual)
            self.record |= {
                "denominator": abs(update.denominator),
                "numerator_norm": update.numerator_norm,
                "value_loss": found.losses[-1],
                "value_steps": len(found.losses),
                "key_cosine": recorded.key_cosine,
            }
            if found.losses[-1] >= self.value.goal:
                self.record["reason"] = (
                    f"value search ended at loss {found.losses[-1]:.3g}, above its goal "
                    f"{self.value.goal:g}"
                )
            yield Update(self.edited_weights()[0], update.left[:, None], update.right[None])

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """What an edit would divide by, per request, without searching a value or editing."""
        return [self.risk(request) for request in batch]

    def risk(self, request: EditRequest) -> dict[str, Any]:
        """Denominator, cosine of plain and mean key, and place of the subject's last token."""
        recorded = self.record_request(request)
        chosen = self.choose_keys(recorded.keys, recorded.values)
        direction = whiten(chosen.direction[:, None], self.moment)[:, 0]
        plain = request_span(self.tokenizer, request.prompt, request.subject, request.target_new)
        return {
            "case_id": request.case_id,
            "subject": request.subject,
            "prompt": request.prompt,
            "denominator": abs(float(F.normalize(direction, dim=0) @ chosen.key.double())),
            "key_cosine": recorded.key_cosine,
            "subject_position": plain.subject,
        }

    def record_request(self, request: EditRequest) -> Recorded:
        """Runs the request in every context, and its essence prompt, through the model once."""
        prompts = [template.replace("{}", request.prompt, 1) for template in self.contexts]
        spans = [
            request_span(self.tokenizer, prompt, request.subject, request.target_new)
            for prompt in prompts
        ]
        essence = request_span(self.tokenizer, ESSENCE, request.subject, "")
        suffixes = record_suffixes(
            self.lm,
            self.layer,
            collate([span.tokens[:-1] for span in spans] + [essence.tokens], self.device),
            torch.tensor([span.subject for span in [*spans, essence]], device=self.device),
        )
        return Recorded(suffixes, *self._target_places(spans))

    def _target_places(self, spans: Sequence[Span]) -> Tensor:
        places = [
            (row, at - 1 - span.subject, span.tokens[at])
            for row, span in enumerate(spans)
            for at in range(span.start, len(span.tokens))
        ]
        return torch.tensor(places, device=self.device).T

    def search_value(self, recorded: Recorded) -> FoundValue:
        """The value that makes every context answer with the target."""
        essence = len(recorded.keys)
        rows = F.pad(recorded.rows, (0, 1), value=essence)
        columns = F.pad(recorded.columns, (0, 1))
        weights = 1.0 / recorded.rows.bincount()[recorded.rows] / essence
        before: list[Tensor] = []

        def nll_and_kl(change: Tensor) -> tuple[Tensor, Tensor]:
            logits = suffix_logits(
                self.lm,
                self.layer,
                recorded.suffixes,
                change.expand(essence + 1, -1),
                rows,
                columns,
            ).float()
            nll = F.cross_entropy(logits[:-1], recorded.targets, reduction="none") @ weights
            log_probs = logits[-1].log_softmax(-1)
            before.append(log_probs.detach())
            return nll, F.kl_div(before[0], log_probs, reduction="sum", log_target=True)

        return value_search(nll_and_kl, recorded.values[0], self.value)

    def card(self) -> dict[str, Any]:
        """Adds layer, second moment, search options and context templates."""
        return super().card() | {
            "layer": self.layer,
            "second_moment": self.second_moment,
            "value": asdict(self.value),
            "contexts": self.contexts,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the context templates."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["contexts"] = list(self.contexts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the context templates back."""
        super().on_load_checkpoint(checkpoint)
        self.contexts = list(checkpoint["contexts"])


class ROME(RankOneEditor):
    """ROME as published in code: the direction from prefixed keys, all else from the plain one.

    When the subject is the first token, the two differ so much that the denominator nearly
    vanishes and the edit destroys the model (The Fall of ROME, section 3).
    """

    remedy = "python train.py fit --config c_rome.yaml"

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Mean key for the direction; plain key and value elsewhere."""
        return RankOneKeys(keys.mean(0), keys[0], values[0])


class ConsistentROME(RankOneEditor):
    """C-ROME (The Fall of ROME), the same algebra as r-ROME: prefixed keys throughout."""

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Mean key and mean value throughout."""
        return RankOneKeys(keys.mean(0), keys.mean(0), values.mean(0))


class PromptOnlyROME(RankOneEditor):
    """p-ROME: the plain key throughout."""

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Plain key and value throughout."""
        return RankOneKeys(keys[0], keys[0], values[0])
