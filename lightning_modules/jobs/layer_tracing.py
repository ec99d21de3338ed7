"""Causal tracing: which states of a model carry its facts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.watched import WatchedModel
from ..functional.causal_trace import mean_by_role, token_roles, usual_window
from ..language_model.judging import stated
from ..language_model.layout import blocks
from ..language_model.tracing import Fact, fact_of, subject_embeddings, trace


class LayerTracing(WatchedModel):
    """Under ``predict``, traces the requests' true facts through the unedited model.

    Noise on the embeddings of the subject lowers the answer's probability. Restoring one state of
    the clean run at one token and layer raises it again: the state's indirect effect. The state is
    a block's output, or the outputs of the MLPs or of the attention in a window of layers. The
    probability is that of the answer's first token, as in the paper. A fact is traced only if every
    token of the true answer is the model's greedy choice.

    Args:
        noise: standard deviation, as a multiple of that of all subjects' embeddings.
        samples: samples of noise, over which probabilities are averaged.
        window: layers whose MLP or attention outputs are restored together; 10, or a fifth of the
            model's layers if that is less, if null.
        stride: distance between traced layers.

    Raises:
        ValueError: if one of them is not positive.
    """

    def __init__(
        self,
        noise: float = 3.0,
        samples: int = 10,
        window: int | None = None,
        stride: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        sizes = {"noise": noise, "samples": samples, "window": window, "stride": stride}
        for name, number in sizes.items():
            if number is not None and number <= 0:
                raise ValueError(f"{name} must be positive, got {number}")
        self.noise = noise
        self.samples = samples
        self.window = window
        self.stride = stride
        self.deviation = 0.0

    def layers_under_edit(self) -> list[int]:
        """Nothing is edited; hidden states are wanted from the first layer on."""
        return [0]

    def on_predict_start(self) -> None:
        """Measures the standard deviation of all subjects' embeddings."""
        loader: Any = self.trainer.predict_dataloaders
        facts = self.facts([request for batch in loader for request in batch])
        found = subject_embeddings(self.lm, facts)
        sums = torch.tensor([found.numel(), found.sum(), found.square().sum()]).double()
        count, total, squares = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
        self.deviation = float((squares / count - (total / count) ** 2).sqrt())

    @property
    def layers(self) -> list[int]:
        """The traced layers."""
        return list(range(0, len(blocks(self.lm)), self.stride))

    @property
    def width(self) -> int:
        """Layers of a window."""
        return self.window or usual_window(len(blocks(self.lm)))

    def facts(self, requests: Sequence[EditRequest]) -> list[Fact]:
        """The facts of the requests with a true answer."""
        return [fact_of(self.tokenizer, request) for request in requests if request.target_true]

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Per request its ``case_id`` and whether the fact is ``known``; if so, its trace."""
        known = stated(self.score, self.tokenizer, batch)
        return [
            {"case_id": request.case_id, "known": False}
            if request not in known
            else {"case_id": request.case_id, "known": True} | self.traced(request)
            for request in batch
        ]

    def traced(self, request: EditRequest) -> dict[str, Any]:
        """Probability of the answer, clean and corrupted, and effects by kind, role and layer."""
        (fact,) = self.facts([request])
        noise = self.noise_of(request, fact)
        found = trace(self.lm, fact, noise, self.width, self.layers)
        roles = token_roles(fact.first, fact.last, len(fact.tokens))
        return {
            "clean": found.clean,
            "corrupted": found.corrupted,
            "effects": {kind: mean_by_role(e, roles) for kind, e in found.effects.items()},
        }

    def noise_of(self, request: EditRequest, fact: Fact) -> Tensor:
        """A fact's samples of noise ``(n, s, d)``, independent of the facts before it."""
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + request.case_id)
        width = self.lm.get_input_embeddings().embedding_dim
        shape = (self.samples, fact.last + 1 - fact.first, width)
        drawn = torch.randn(shape, generator=chance, device="cpu")
        return (self.noise * self.deviation * drawn).to(self.device)

    def card(self) -> dict[str, Any]:
        """Adds the noise's parameters and the width of the window."""
        return super().card() | {
            "noise": {
                "multiple": self.noise,
                "deviation": self.deviation,
                "samples": self.samples,
            },
            "window": self.width,
            "layers": self.layers,
        }
