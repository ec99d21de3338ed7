import json

import lightning as L
import pytest

from callbacks.studies.hard_edit_file import HardEditFile
from data_modules.edit_requests import EditingDataModule
from data_modules.forms.readers import read_requests
from lightning_modules.jobs.hard_edit_templates import HardEditTemplates


def predict(folder, **options):
    file = HardEditFile()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[file],
        default_root_dir=folder,
    )
    module = HardEditTemplates()
    trainer.predict(module, datamodule=EditingDataModule(**options))
    return file


def test_the_file_holds_the_data_points_of_all_batches(tmp_path):
    file = predict(tmp_path, limit=300, batch_size=100)
    assert json.loads((tmp_path / "hard_edit.json").read_text()) == file.points
    found = read_requests(str(tmp_path / "hard_edit.json"))
    assert len(found) == len(file.points) > 60
    assert all(request.prompt.startswith("{}") for request in found)


def test_there_is_no_file_without_data_points(tmp_path):
    with pytest.raises(ValueError, match="no data point can be used"):
        predict(tmp_path, limit=1)
    assert list(tmp_path.iterdir()) == []
