import lightning as L
import pytest
from torch.utils.data import DataLoader

from callbacks.keeping.token_bar import TokenBar
from data_modules.records import WatchedText
from lightning_modules.jobs.key_statistics import KeyStatistics
from tests.tiny import save_tiny

TEXT = "Rome is the capital of Italy, a country in the south."


@pytest.mark.parametrize("texts", [10, 2])
def test_it_counts_tokens_to_the_last_one(tmp_path, capsys, texts):
    module = KeyStatistics(
        str(save_tiny(tmp_path, "gpt2")), tokens=80, output=str(tmp_path / "moments")
    )
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[TokenBar()], enable_model_summary=False
    )
    batches = [WatchedText([n], [TEXT] * 1) for n in range(texts * 2)]
    trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)
    last = capsys.readouterr().out.rpartition("Key statistics")[2]
    assert "80.0/80.0" in last
    assert "tokens/s" in last
