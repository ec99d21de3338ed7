"""Trains the small embedded language model: ordinary Lightning, automatic optimization."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel


class Pretraining(L.LightningModule):
    """A GPT-2-style language model that learns to predict the next token.

    Validation takes held-out text first (``val/loss``, nats per token) and questions second
    (``val/facts_stated``: fraction whose answer is the greedy continuation).

    Args:
        start: folder of such a model to start from, with its sizes; random weights if null.
        vocabulary: number of tokens.
        layers: transformer blocks.
        width: size of the residual stream; the MLPs are four times as wide.
        heads: attention heads.
        positions: longest sequence.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: AdamW's.
        compiled: compile the forward pass (needs a C++ compiler).
    """

    def __init__(
        self,
        start: str | None = None,
        vocabulary: int = 7424,
        layers: int = 6,
        width: int = 320,
        heads: int = 5,
        positions: int = 512,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.1,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        config = GPT2Config(
            vocab_size=vocabulary,
            n_layer=layers,
            n_embd=width,
            n_head=heads,
            n_positions=positions,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
        if start is None:
            self.lm = GPT2LMHeadModel(config)
        else:
            self.lm = GPT2LMHeadModel.from_pretrained(start, dtype=torch.float32)
            self.lm.resize_token_embeddings(vocabulary)
            self.lm.train()
        if compiled:
            self.lm.compile(dynamic=False)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean NLL of the next token, in nats."""
        loss = self.lm(batch[0], labels=batch[1], use_cache=False).loss
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int
    ) -> None:
        """Loss on text; exact greedy match of the answer's tokens on questions."""
        tokens, labels = batch
        # not through the compiled call: lengths vary here, and each would compile again
        logits = self.lm.forward(tokens, use_cache=False).logits[:, :-1].float()
        scored = labels[:, 1:] >= 0
        targets = labels[:, 1:][scored]
        if dataloader_idx == 0:
            name, value = "val/loss", torch.nn.functional.cross_entropy(logits[scored], targets)
        else:
            name, value = "val/facts_stated", (logits[scored].argmax(-1) == targets).all().float()
        self.log(name, value, batch_size=len(tokens), add_dataloader_idx=False, prog_bar=True)

    def configure_optimizers(self) -> dict:
        """AdamW under a one-cycle schedule; biases and norms are not decayed."""
        parameters = list(self.lm.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups,
            lr=self.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=self.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.05,
            final_div_factor=100.0,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
