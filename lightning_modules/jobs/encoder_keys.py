"""Keys inside the encoder of an encoder-decoder, where a token also sees later tokens."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from transformers import AutoConfig, AutoModelForTextEncoding, AutoTokenizer

from data_modules.records import EditRequest

from ..language_model.hub_models import look_up_model
from ..language_model.keys import Keyed
from ..language_model.loading import Dtype
from ..language_model.passes import recording
from ..language_model.tokens import collate, fast, first_token, request_span

FAMILIES = ("t5", "mt5", "umt5")  # with and without a gated MLP
OUTPUT_MAP = "encoder.block.{}.layer.1.DenseReluDense.wo"


class EncoderKeys(L.LightningModule):
    """Under ``predict``, keys of T5's encoder: at the subject's last token and at the first token.

    A prompt is encoded as T5 reads it, with ``</s>`` at the end. Character offsets give the
    subject's last token, so ``</s>`` never counts as one of the subject's.

    Args:
        lm: folder or hub name of a T5 model.
        layer: of the encoder.
        dtype: of the weights in memory.
    """

    def __init__(self, lm: str, layer: int, dtype: Dtype = "float32") -> None:
        super().__init__()
        self.lm_name = lm
        self.layer = layer
        self.dtype_name = dtype
        self.lm: Any = None
        self.found: list[Keyed] = []

    def configure_model(self) -> None:
        """Loads only the encoder, once.

        Raises:
            FileNotFoundError: if there is no such folder or reachable model.
            ValueError: if it is no T5, the layer does not exist, or the tokenizer is not fast.
        """
        if self.lm is not None:
            return
        try:
            look_up_model(self.lm_name)
            config = AutoConfig.from_pretrained(self.lm_name)
            if config.model_type not in FAMILIES:
                raise ValueError(
                    f"{self.lm_name!r} is a {config.model_type!r}, whose encoder is not known; "
                    f"give one of {', '.join(FAMILIES)}, or predict with a method such as ROME"
                )
            if not 0 <= self.layer < config.num_layers:
                raise ValueError(
                    f"layer must be in [0, {config.num_layers}) for this encoder, got {self.layer}"
                )
            tokenizer = AutoTokenizer.from_pretrained(self.lm_name)
            dtype = getattr(torch, self.dtype_name)
            lm = AutoModelForTextEncoding.from_pretrained(self.lm_name, dtype=dtype)
        except OSError as error:
            raise FileNotFoundError(
                f"no encoder {self.lm_name!r}: it is neither a folder with config.json and weights "
                "nor a reachable model on the hub; check the spelling"
            ) from error
        self.tokenizer = fast(tokenizer, self.lm_name)
        self.lm = lm.requires_grad_(False).eval()

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Finds the keys of a batch, which :meth:`keyed` then returns; returns their positions."""
        self.found = self.keys_of(batch) if batch else []
        return [{"case_id": one.request.case_id, "begins": one.begins} for one in self.found]

    def keyed(self, batch: Sequence[EditRequest]) -> list[Keyed]:
        """Keys of the requests that :meth:`predict_step` has seen."""
        return self.found

    @torch.no_grad()
    def keys_of(self, requests: Sequence[EditRequest]) -> list[Keyed]:
        """``plain`` and ``first`` keys of requests, from one pass over their prompts."""
        rows = [self.tokenizer(request.text)["input_ids"] for request in requests]
        subjects = [
            request_span(self.tokenizer, request.prompt, request.subject, "").subject
            for request in requests
        ]
        firsts = [first_token(self.tokenizer, request.text).subject for request in requests]
        batch = collate(rows, self.device)
        wanted = self.lm.get_submodule(OUTPUT_MAP.format(self.layer))
        with recording({"map": wanted}, stop_at=wanted) as seen:
            self.lm(batch.tokens, attention_mask=batch.mask)
        keys = seen["map"][0].float().cpu()
        return [
            Keyed(request, subject == first, {"plain": row[subject], "first": row[first]})
            for request, subject, first, row in zip(requests, subjects, firsts, keys, strict=True)
        ]

    def card(self) -> dict[str, Any]:
        """The encoder and layer of the keys."""
        return {"lm": self.lm_name, "layer": self.layer, "part": "encoder"}
