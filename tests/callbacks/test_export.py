import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks.collapse import CollapseStopping
from callbacks.export import SavePretrained
from data_modules.pretraining import Windows
from lightning_modules.pretraining import Pretraining

from .runs import REQUESTS, WEIGHT, fit, trainer_in


class Sentences(L.LightningDataModule):
    """One window of tokens, and the tokenizer that made them."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def val_dataloader(self):
        return [self.train_dataloader()] * 2

    def train_dataloader(self):
        tokens = torch.tensor(
            [self.tokenizer(request.text)["input_ids"][:4] for request in REQUESTS]
        )
        return DataLoader([Windows(tokens, tokens)], batch_size=None)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_edited_model_outlives_its_run(lm, tmp_path, dtype):
    run = fit(lm, tmp_path, [SavePretrained("edited", dtype)], REQUESTS[:1], limit_val_batches=0)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    assert saved.dtype == getattr(torch, dtype)
    weight = saved.get_parameter(WEIGHT)
    assert torch.equal(weight, run.weight.to(saved.dtype))
    assert not torch.equal(weight, run.editor.original[WEIGHT].to(saved.dtype))
    tokens = AutoTokenizer.from_pretrained(tmp_path / "edited")("Paris is the capital of")
    assert tokens["input_ids"] == run.editor.tokenizer("Paris is the capital of")["input_ids"]


def test_saving_leaves_the_model_of_the_run_in_its_own_dtype(lm, tmp_path):
    run = fit(lm, tmp_path, [SavePretrained()], REQUESTS[:1], limit_val_batches=0)
    assert run.weight.dtype == torch.float32


def test_a_trained_model_is_saved_with_the_tokenizer_of_its_data(lm, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(lm)
    model = Pretraining(vocabulary=len(tokenizer), layers=1, width=16, heads=2, positions=8)
    trainer = trainer_in(tmp_path, [SavePretrained(dtype="float32"), CollapseStopping()])
    trainer.fit(model, Sentences(tokenizer))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    assert torch.equal(saved.transformer.wte.weight, model.lm.transformer.wte.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "lm").get_vocab() == tokenizer.get_vocab()
