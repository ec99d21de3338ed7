import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.watching.figures import HealthFigure
from tests.callbacks.runs import Run, fit, tiny_lm, watching


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny GPT-2 and its tokenizer."""
    return tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def sequential(lm: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four edits, one after another, with everything that ``configs/defaults.yaml`` asks for."""
    folder = tmp_path_factory.mktemp("sequential")
    logger = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    keeper = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [*watching(), HealthFigure(), keeper]
    return fit(lm, folder, callbacks, logger=logger, enable_checkpointing=True)
