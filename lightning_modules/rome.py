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
from .functional.rank_one import factorize, rank_one_update, whiten
from .functional.value_search import FoundValue, ValueSearchOptions
from .key_statistics import load_second_moment
from .language_model.contexts import sample_contexts
from .language_model.layout import output_map, output_weight_name
from .language_model.loading import Dtype
from .language_model.values import Recorded, record_request, search_value


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
        watch_memory: GiB kept for hidden states of watched text below the edit.
    """

    def __init__(
        self,
        lm: str = "embedded",
        layer: int = 1,
        value: ValueSearchOptions = ValueSearchOptions(),  # noqa: B008 - frozen
        second_moment: Literal["estimated", "identity"] = "estimated",
        statistics: str | None = None,
        contexts: dict[int, int] | None = None,
        dtype: Dtype = "float32",
        seed: int = 0,
        trust_remote_code: bool = False,
        watch_memory: float = 1.0,
    ) -> None:
        super().__init__(lm, dtype, seed, trust_remote_code, watch_memory)
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
        """Samples the context templates; loads the second moment and factorizes it."""
        if not self.contexts:
            generator = torch.Generator().manual_seed(self.seed)
            self.contexts = sample_contexts(
                self.lm, self.tokenizer, self.context_lengths, generator
            )
        self.factor = None
        if self.second_moment == "estimated":
            moment = load_second_moment(self.statistics, self.lm_name, self.fingerprint, self.layer)
            self.factor = factorize(moment.to(self.device))

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One rank-one update per request."""
        for request in requests:
            recorded = self.record_request(request)
            found = self.search_value(recorded)
            chosen = self.choose_keys(recorded.keys, recorded.values)
            direction = whiten(chosen.direction[:, None], self.factor)[:, 0]
            residual = recorded.values[0] + found.change - chosen.value
            update = rank_one_update(direction, chosen.key, residual)
            self.record |= {
                "denominator": abs(update.denominator),
                "numerator_norm": update.numerator_norm,
                "value_loss": found.losses[-1],
                "value_steps": len(found.losses),
                "key_cosine": recorded.key_cosine,
                "subject_position": recorded.subject_position,
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
        direction = whiten(chosen.direction[:, None], self.factor)[:, 0]
        return {
            "case_id": request.case_id,
            "subject": request.subject,
            "prompt": request.prompt,
            "denominator": abs(float(F.normalize(direction, dim=0) @ chosen.key.double())),
            "key_cosine": recorded.key_cosine,
            "subject_position": recorded.subject_position,
        }

    def record_request(self, request: EditRequest) -> Recorded:
        """The request's keys and values in every context, and what a search needs."""
        return record_request(self.lm, self.tokenizer, self.layer, self.contexts, request)

    def search_value(self, recorded: Recorded) -> FoundValue:
        """The value that makes every context answer with the target."""
        return search_value(self.lm, self.layer, recorded, self.value)

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
