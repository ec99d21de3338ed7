"""A language model that is loaded and evaluated while something changes it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning as L
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, TaskItem, WatchedText, case_of

from ..language_model.chat import ChatUse, Frames, framed, framed_item, frames
from ..language_model.device_map import Room, room_of
from ..language_model.intact import require_merged
from ..language_model.loading import Dtype, fingerprint, load, load_unweighted, require_own_dtype
from ..language_model.lower_states import LowerStates
from ..language_model.positions import begin_at
from ..language_model.reach import Reach, positions_of, scores_in_windows
from ..language_model.scoring import Batching, Scores
from ..language_model.self_test import self_test
from ..language_model.split import give
from ..language_model.streamed import use_fast_maps
from ..language_model.tokens import Span, begins_texts, begun_span, fast, text_span
from .edited_weights import EditedWeights
from .judge import Judge, answer
from .record import HeldRecord
from .replicas import Place
from .shared_scores import shared_scores


class WatchedModel(L.LightningModule, ABC):
    """Scores watched text under ``validate`` and requests under ``test``.

    ``record`` holds all figures of the current edit; callbacks complete it and the journal writes
    it. ``baseline`` holds the unedited model's scores. Devices that hold the same model share the
    work; ``share`` is this device's place among them.

    Args:
        lm: ``embedded``, a folder, a GGUF file, or a model's name on the hub.
        dtype: of the model's weights; edited weights also have float32 masters.
        seed: of the method's random choices.
        trust_remote_code: run code that comes with the model.
        watch_memory: GiB on the model's device for hidden states of watched text below the edit.
        watch_host_memory: GiB on the host for those that do not fit there.
        first_position: of each text's first token; 1 gives it the second token's position.
        chat: prompts that go through the tokenizer's chat template: those to ``edit``, to ``judge``
            (tasks too), ``both`` (or true), ``auto`` (both where there is a template), or ``off``.
        separator: between prompt and answer, tasks apart; by default a blank where one belongs.
        end_of_target: a token that ends the target of an edit, such as ``<|im_end|>``; true is the
            template's end of a turn, or EOS without a template.
        device_map: where the layers of a model lie that is too large for one device: ``auto``, or
            a file of devices by module (``docs/devices.md``); the CPU and ``disk`` are devices too.
        batching: size of the batches in which texts are scored.
    """

    def __init__(
        self,
        lm: str = "embedded",
        dtype: Dtype = "float32",
        seed: int = 0,
        trust_remote_code: bool = False,
        watch_memory: float = 1.0,
        watch_host_memory: float = 4.0,
        first_position: int = 0,
        chat: ChatUse = "off",
        separator: str | None = None,
        end_of_target: bool | str = False,
        device_map: str | None = None,
        batching: Batching = Batching(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.lm_name = lm
        self.dtype_name = dtype
        self.seed = seed
        self.trust_remote_code = trust_remote_code
        self.watch_memory, self.watch_host_memory = watch_memory, watch_host_memory
        self.first_position = first_position
        self.chat = chat
        self.separator = separator
        self.end_of_target = end_of_target
        self.device_map = device_map
        self.room: Room | None = None
        self.batching = batching
        self.frames = Frames()
        self.lm: Any = None
        self.record = {}
        self.baseline: dict[str, float] = {}
        self.edited_requests: list[str] = []
        self.share = Place()

    edited: EditedWeights
    record = HeldRecord()
    needs_subject = True

    @property
    def edited_cases(self) -> list[int]:
        """Case numbers of the requests whose edits the model holds, in the order of the edits."""
        return [case_of(identity) for identity in self.edited_requests]

    def reach(self) -> Reach:
        """What the model can read and the method can edit; its weights need not be loaded."""
        if self.lm is None:
            config, tokenizer = load_unweighted(self.lm_name, self.trust_remote_code)
        else:
            config, tokenizer = self.lm.config, self.tokenizer
        whose = self.lm_name, type(self).__name__, self.needs_subject
        return Reach(*whose, positions_of(config), self.tokens_before(), tokenizer)

    def tokens_before(self) -> int:
        """Tokens that a prompt may be put behind."""
        return 0

    def choose_layers(self) -> None:
        """Settles which layers change, where that was left open."""

    @abstractmethod
    def layers_under_edit(self) -> list[int]:
        """Layers that may change, the lowest first."""

    def lowest_layer(self) -> int:
        """The lowest layer that may change; below it, hidden states are constant."""
        return self.layers_under_edit()[0]

    def setup(self, stage: str) -> None:
        """Refuses a precision that Lightning would give the model in the place of its own."""
        require_own_dtype(self.trainer.precision)
        if self.device_map is not None:
            self.room = room_of(self.trainer.strategy.root_device, self.trainer.num_devices)

    def configure_model(self) -> None:
        """Loads the language model, once."""
        if self.lm is None:
            kept = self.dtype_name, self.trust_remote_code, self.device_map, self.room
            self.attach(*load(self.lm_name, *kept))

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes the model in place: frozen, in eval mode, with fast kernels."""
        require_merged(lm)
        give(self, lm.requires_grad_(False).eval())
        self.tokenizer = fast(tokenizer, self.lm_name)
        options = (self.chat, self.separator, self.end_of_target)
        self.frames = frames(lm, tokenizer, self.lm_name, *options)
        use_fast_maps(lm)
        begin_at(lm, self.first_position)
        self.fingerprint = fingerprint(lm, tokenizer)
        self.choose_layers()
        self_test(lm, self.layers_under_edit())
        lowest = self.lowest_layer()
        self.lower = LowerStates(lowest, self.watch_memory * 2**30, self.watch_host_memory * 2**30)
        self.judging = Judge(self.tokenizer, self.scored, lowest)

    def validation_step(self, batch: WatchedText, batch_idx: int) -> Scores:
        """Scores of watched texts: no special tokens, all but the first token, no truncation."""
        return self.watch(batch)

    def watch(self, batch: WatchedText, copies: int = 1) -> Scores:
        """Scores of watched texts, each repeated ``copies`` times.

        A text longer than the model's positions is scored in windows of that length.
        """
        return self._watched([text_span(self.tokenizer, text) for text in batch.texts], copies)

    def _watched(self, texts: Sequence[Span], copies: int = 1) -> Scores:
        scored = partial(self.scored, lower=self.lower, copies=copies)
        return scores_in_windows(texts, positions_of(self.lm.config), scored, copies)

    def watch_behind_bos(self, batch: WatchedText) -> Scores | None:
        """Scores of watched texts behind the tokenizer's BOS; None if it puts none there."""
        if not begins_texts(self.tokenizer):
            return None
        return self._watched([begun_span(self.tokenizer, text) for text in batch.texts])

    def test_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Evaluates each edit of a checkpoint on the current model; without one, all requests."""
        chosen = self.tested(batch)
        pairs = zip(chosen, self.judge_all(chosen), strict=True)
        return [{"case_id": request.case_id, **scores} for request, scores in pairs]

    def tested(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """Those that ``test`` judges: the edits that a checkpoint holds; without one, all."""
        if self.trainer.ckpt_path is None:
            return list(requests)
        return [request for request in requests if request.identity in self.edited_requests]

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Refuses: without keys there is no risk to predict.

        Raises:
            ValueError: always; methods with keys override it.
        """
        raise ValueError(
            f"{type(self).__name__} has no keys to estimate the risk of an edit from; "
            "predict with a method that has, such as rome.yaml"
        )

    def score(self, spans: Sequence[Span]) -> Scores:
        """Log-probability, length and greedy matches of each span's predicted tokens."""
        return self.judging.again(spans)

    def scored(self, spans: Sequence[Span], lower: LowerStates | None, copies: int = 1) -> Scores:
        """The same of copies of texts, by all devices, with hidden states below the edit."""
        return shared_scores(self.lm, spans, self.batching, self.share, lower, copies)

    def answer(self, items: Sequence[TaskItem], new_tokens: int = 256) -> list[dict[str, float]]:
        """Scores of the current model on each item of one task.

        Args:
            items: their hidden states below the edit are cached for the next call.
            new_tokens: most tokens of a generated answer.
        """
        framed_items = [framed_item(item, self.frames.judged) for item in items]
        again = partial(self.scored, lower=self.lower)
        return answer(self.lm, self.tokenizer, framed_items, again, self.share, new_tokens)

    def judge(self, request: EditRequest) -> dict[str, float]:
        """Measures of the current model's answers to a request, by name."""
        return self.judge_all([request])[0]

    def judge_all(self, requests: Sequence[EditRequest]) -> list[dict[str, float]]:
        """The same for several requests in one batch."""
        worded = [self.as_judged(self.worded(request)) for request in requests]
        plain = [self.as_judged(request) for request in requests]
        unedited = self.edited.unedited if self.edited_requests else None
        return self.judging.judged(worded, plain, unedited)

    def worded(self, request: EditRequest) -> EditRequest:
        """The request as it is evaluated; unchanged by default."""
        return request

    def as_edited(self, request: EditRequest) -> EditRequest:
        """The request with what the model is given around its prompts when it is edited."""
        return framed(request, self.frames.edited)

    def as_judged(self, request: EditRequest) -> EditRequest:
        """The request with what the model is given around its prompts when it is judged."""
        return framed(request, self.frames.judged)

    def card(self) -> dict[str, Any]:
        """What this run edits and how, for its summary."""
        names = ("fingerprint", "seed", "chat", "separator", "end_of_target")
        about = {name: getattr(self, name) for name in names}
        return {"method": type(self).__name__, "lm": self.lm_name, **about}
