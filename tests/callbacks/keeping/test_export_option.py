import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.export_option import Export
from lightning_modules.jobs.replay import Replay
from tests.callbacks.runs import REQUESTS, WEIGHT, data_of, fit, trainer_in


def test_each_form_is_written_in_a_folder_of_the_run(lm, tmp_path):
    run = fit(lm, tmp_path, [EditLedger(), Export(["lm", "change", "adapter"])], REQUESTS[:2])
    assert torch.equal(plain(tmp_path / "lm").get_parameter(WEIGHT), run.weight)
    assert (tmp_path / "change" / "change.safetensors").is_file()
    assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()


def test_an_adapter_that_cannot_be_is_left_out_with_a_warning(lm, tmp_path):
    with pytest.warns(UserWarning, match="no LoRA adapter: .*SaveChange"):
        fit(lm, tmp_path, [Export(["adapter", "lm"])], limit_val_batches=0)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["lm"]


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    return fit(lm, tmp_path_factory.mktemp("run"), [EditLedger()], REQUESTS, limit_val_batches=0)


def test_a_replay_exports_under_validate(lm, run, tmp_path):
    replay = Replay(str(run.folder), without=[2], lm=lm)
    trainer = trainer_in(tmp_path, [Export(["lm", "change"])])
    trainer.validate(replay, datamodule=data_of(), verbose=False)
    weight = plain(tmp_path / "lm").get_parameter(WEIGHT)
    assert torch.equal(weight, replay.lm.get_parameter(WEIGHT))
    change = load_file(tmp_path / "change" / "change.safetensors")
    assert change[f"{WEIGHT}.right"].shape[0] == 3
    moved = weight - run.editor.original[WEIGHT]
    torch.testing.assert_close(change[f"{WEIGHT}.left"] @ change[f"{WEIGHT}.right"], moved)
    card = (tmp_path / "lm" / "README.md").read_text()
    assert "Edited facts: 3" in card
    assert "Victor Hugo" not in card


def test_a_run_that_edits_nothing_has_nothing_to_export(lm, run, tmp_path):
    with pytest.raises(ValueError, match="--export: nothing is edited here; give it to fit"):
        trainer_in(tmp_path, [Export(["lm"])]).validate(run.editor, data_of(), verbose=False)


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder)
