import lightning as L
import torch
from torch.utils.data import DataLoader

from data_modules.pretraining_windows import IGNORED, Windows
from lightning_modules.jobs.pretraining import Pretraining

TINY = {"layers": 2, "width": 32, "heads": 2, "positions": 32}


def fit(module: Pretraining, folder, steps: int) -> L.Trainer:
    tokens = torch.arange(16).repeat(4, 1)
    labels = torch.where(torch.arange(16) < 15, IGNORED, tokens)
    trainer = L.Trainer(
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
    )
    loaders = [
        DataLoader(part, batch_size=None)
        for part in ([Windows(tokens, tokens)], [Windows(tokens[:1], labels[:1])])
    ]
    train = DataLoader([Windows(tokens, tokens)] * steps, batch_size=None)
    trainer.fit(module, train, loaders)
    return trainer


def test_it_learns_what_it_is_shown(tmp_path):
    L.seed_everything(0)
    trainer = fit(Pretraining(vocabulary=64, learning_rate=1e-2, **TINY), tmp_path, 60)
    assert trainer.callback_metrics["val/loss"] < 0.5
    assert trainer.callback_metrics["val/facts_stated"] == 1.0


def test_it_goes_on_from_a_saved_model_with_more_tokens(tmp_path):
    first = Pretraining(vocabulary=64, **TINY)
    first.lm.save_pretrained(tmp_path / "lm")
    second = Pretraining(start=str(tmp_path / "lm"), vocabulary=80)
    weight = second.lm.get_input_embeddings().weight
    assert weight.shape == (80, 32)
    assert torch.equal(weight[:64], first.lm.get_input_embeddings().weight)
    assert second.lm.dtype == torch.float32
