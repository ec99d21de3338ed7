"""A language model that is loaded, watched and judged while something changes it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, WatchedText

from .language_model.judging import judge
from .language_model.loading import Dtype, fingerprint, load
from .language_model.lower_states import LowerStates
from .language_model.scoring import Scores, score
from .language_model.tokens import Span, fast, text_span
from .replicas import Place

QUESTIONS_MEMORY = 2**27  # bytes; a request is judged before its edit and again after it


class WatchedModel(L.LightningModule, ABC):
    """Watched text under ``validate``, requests under ``test``; scores are all that it returns.

    Everything known about the edit in flight is in ``record``, which callbacks complete and the
    journal writes; ``baseline`` is what the unedited model scored. Devices that hold the same model
    share the work: ``share`` tells which of them this is.

    Args:
        lm: ``embedded``, a folder, or a model's name on the hub.
        dtype: of the model's weights; those under edit are also kept in float32.
        seed: of everything the method draws by chance.
        trust_remote_code: run code that comes with the model.
        watch_memory: GiB of the model's device for hidden states of watched text below the edit.
        watch_host_memory: GiB of the host's memory for those that do not fit there.
    """

    def __init__(
        self,
        lm: str = "embedded",
        dtype: Dtype = "float32",
        seed: int = 0,
        trust_remote_code: bool = False,
        watch_memory: float = 1.0,
        watch_host_memory: float = 4.0,
    ) -> None:
        super().__init__()
        self.lm_name = lm
        self.dtype_name = dtype
        self.seed = seed
        self.trust_remote_code = trust_remote_code
        self.watch_memory = watch_memory
        self.watch_host_memory = watch_host_memory
        self.lm: Any = None
        self.record: dict[str, Any] = {}
        self.baseline: dict[str, float] = {}
        self.edited_cases: list[int] = []
        self.share = Place()

    @abstractmethod
    def lowest_layer(self) -> int:
        """The lowest layer that may change; below it, hidden states are constant."""

    def configure_model(self) -> None:
        """Loads the language model, once."""
        if self.lm is None:
            self.attach(*load(self.lm_name, self.dtype_name, self.trust_remote_code))

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes a model as the one in question, where it is; freezes it, in eval mode."""
        self.lm, self.tokenizer = lm.requires_grad_(False).eval(), fast(tokenizer, self.lm_name)
        self.to(lm.device)
        self.fingerprint = fingerprint(lm, tokenizer)
        lowest = self.lowest_layer()
        self.lower = LowerStates(lowest, self.watch_memory * 2**30, self.watch_host_memory * 2**30)
        self.asked = LowerStates(lowest, QUESTIONS_MEMORY, newest=True)

    def validation_step(self, batch: WatchedText, batch_idx: int) -> Scores:
        """Scores of watched texts: no special tokens, all but the first token, no truncation."""
        return self.watch(batch)

    def watch(self, batch: WatchedText, copies: int = 1) -> Scores:
        """Scores of watched texts, as if each stood there so many times."""
        spans = [text_span(self.tokenizer, text) for text in batch.texts]
        scores = score(self.lm, spans, lower=self.lower, copies=copies, share=self.share)
        return self._shared(scores)

    def test_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Judges each edit of a checkpoint on the model as it is now; without one, all requests."""
        return [
            {"case_id": request.case_id, **self.judge(request)}
            for request in batch
            if self.trainer.ckpt_path is None or request.case_id in self.edited_cases
        ]

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Foretells nothing here.

        Raises:
            ValueError: always; a method with keys says more.
        """
        raise ValueError(
            f"{type(self).__name__} has no keys from which the risk of an edit could be told; "
            "predict with a method that has, such as rome.yaml"
        )

    def score(self, spans: Sequence[Span]) -> Scores:
        """Log-probability, length and greedy matches of each span's predicted tokens."""
        return self._shared(score(self.lm, spans, lower=self.asked, share=self.share))

    def _shared(self, scores: Scores) -> Scores:
        """The scores that the devices have found together."""
        parts = torch.stack([scores.log_prob, scores.greedy.double()])
        log_prob, greedy = self.share.summed(parts, self.device)
        return Scores(log_prob, scores.length, greedy.long())

    def judge(self, request: EditRequest) -> dict[str, float]:
        """Efficacy, paraphrase and neighborhood of a request, on the model as it is now."""
        return judge(self.score, self.tokenizer, request)

    def card(self) -> dict[str, Any]:
        """What this run edits and how, for its summary."""
        return {
            "method": type(self).__name__,
            "lm": self.lm_name,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
        }
