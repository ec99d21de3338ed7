import json

import lightning as L
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.export import CARD, SaveChange, SaveLoRA, SavePretrained
from callbacks.watching.collapse import CollapseStopping
from data_modules.pretraining_windows import Windows
from lightning_modules.jobs.pretraining import Pretraining
from lightning_modules.language_model.loading import load
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, WEIGHT, data_of, fit, trainer_in, watching
from tests.gguf_models import CHAT, quantisable_model, write_gguf
from tests.oracles import published_kernels
from tests.tiny import save_tiny


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


def edited(lm, folder, *callbacks, **method):
    """A run of all requests, its logits, and those of the unedited model loaded again."""
    run = fit(lm, folder, [EditLedger(), *callbacks], limit_val_batches=0, **method)
    tokens = run.editor.tokenizer("Paris is the capital of", return_tensors="pt")["input_ids"]
    with torch.no_grad(), published_kernels(run.editor.lm):  # as whoever loads it will see it
        logits = run.editor.lm(tokens).logits
    return run, tokens, logits


def plain(lm):
    return AutoModelForCausalLM.from_pretrained(lm).eval()


@torch.no_grad()
def add(lm, change):
    """What the card says."""
    for name in {part.rpartition(".")[0] for part in change}:
        whole = change.get(f"{name}.change")
        added = change[f"{name}.left"] @ change[f"{name}.right"] if whole is None else whole
        lm.get_parameter(name).data += added


class Breaks(ROME):
    """Leaves a weight that is not finite, in a way that no update shows."""

    def make_edit(self, requests):
        super().make_edit(requests)
        self.lm.get_parameter(WEIGHT)[0, 0] = torch.nan


def test_an_exported_model_gives_the_same_logits_in_plain_transformers(lm, tmp_path):
    _, tokens, logits = edited(lm, tmp_path, SavePretrained("edited"))
    with torch.no_grad():
        assert torch.equal(plain(tmp_path / "edited")(tokens).logits, logits)
        assert not torch.allclose(plain(lm)(tokens).logits, logits)


def test_a_model_from_a_gguf_is_exported_in_full_precision(tmp_path):
    file = str(write_gguf(tmp_path / "tiny.gguf", quantisable_model()))
    _, tokens, logits = edited(file, tmp_path, SavePretrained("edited"))
    with torch.no_grad():
        assert torch.equal(plain(tmp_path / "edited")(tokens).logits, logits)
        assert not torch.allclose(load(file)[0](tokens).logits, logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "edited").chat_template == CHAT


def test_a_change_alone_is_low_rank_and_makes_the_edited_model(lm, tmp_path):
    run, tokens, logits = edited(lm, tmp_path, SaveChange())
    change = load_file(tmp_path / "change" / "change.safetensors")
    assert {name: tuple(factor.shape) for name, factor in change.items()} == {
        f"{WEIGHT}.left": (128, 4),
        f"{WEIGHT}.right": (4, 32),
    }
    model = plain(lm)
    add(model, change)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, logits, rtol=1e-5, atol=1e-5)
    card = (tmp_path / "change" / "README.md").read_text()
    assert f"fingerprint {run.editor.fingerprint}" in card
    assert "by ROME: 4 edited requests, cases [10, 11, 12, 13]." in card


def test_a_change_that_no_ledger_tells_of_is_dense(lm, tmp_path):
    run = fit(lm, tmp_path, [SaveChange()], limit_val_batches=0)
    change = load_file(tmp_path / "change" / "change.safetensors")
    assert change.keys() == {f"{WEIGHT}.change"}
    model = plain(lm)
    add(model, change)
    torch.testing.assert_close(model.get_parameter(WEIGHT), run.weight)


def test_a_cards_code_is_what_this_test_does():
    lines = CARD.format(lm="", fingerprint="", method="", count=0, cases="").splitlines()
    loop = lines[next(n for n, line in enumerate(lines) if line.startswith("for name")) : -1]
    scope = {"change": {"a.left": torch.ones(2, 1), "a.right": torch.ones(1, 2)}, "lm": Model()}
    exec("\n".join(loop), scope)
    assert torch.equal(scope["lm"].a, torch.ones(2, 2))


class Model:
    """The least that a card's code needs."""

    def __init__(self):
        self.a = torch.zeros(2, 2)

    def get_parameter(self, name):
        return getattr(self, name)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_a_lora_adapter_makes_the_edited_model_with_peft(family, tmp_path):
    lm = str(save_tiny(tmp_path / "lm", family))
    _, tokens, logits = edited(lm, tmp_path / "run", SaveLoRA(), requests=REQUESTS[:3])
    adapter = tmp_path / "run" / "lora"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is (family == "gpt2")
    assert config["r"] == config["lora_alpha"] == 3
    model = PeftModel.from_pretrained(plain(lm), adapter)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, logits, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(plain(lm)(tokens).logits, logits, rtol=1e-3, atol=1e-3)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, logits, rtol=1e-5, atol=1e-5)


def test_an_adapter_needs_a_ledger_of_low_rank_edits(lm, tmp_path):
    with pytest.raises(ValueError, match=r"no LoRA adapter: .*c_proj.weight; export with .*SaveCh"):
        fit(lm, tmp_path, [SaveLoRA()], limit_val_batches=0)


@pytest.mark.parametrize("callback", [SavePretrained, SaveChange, SaveLoRA])
def test_weights_that_are_not_finite_are_not_exported(lm, tmp_path, callback):
    with pytest.raises(ValueError, match=rf"not exported: {WEIGHT} hold NaN or infinity"):
        edited(lm, tmp_path, callback(), method=Breaks)
    assert not list(tmp_path.rglob("*model*.safetensors"))


def test_weights_that_overflow_the_chosen_type_are_not_exported(lm, tmp_path):
    class Huge(ROME):
        def make_edit(self, requests):
            super().make_edit(requests)
            self.lm.get_parameter(WEIGHT)[0, 0] = 1e6

    with pytest.raises(ValueError, match="hold NaN or infinity"):
        edited(lm, tmp_path, SavePretrained(dtype="float16"), method=Huge)


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


def test_a_model_that_begins_elsewhere_is_not_exported(lm, tmp_path):
    editor = ROME(lm=lm, first_position=1, **METHOD)
    with pytest.raises(ValueError, match="exported with first_position 1"):
        trainer_in(tmp_path, [SavePretrained()]).fit(editor, datamodule=data_of())


def test_exported_files_have_the_usual_modes_and_a_card(lm, tmp_path):
    probe = tmp_path / "probe"
    probe.touch()
    edited(lm, tmp_path, SavePretrained(), SaveChange(), SaveLoRA())
    for folder in ("lm", "change", "lora"):
        files = sorted((tmp_path / folder).iterdir())
        assert {file.stat().st_mode for file in files} == {probe.stat().st_mode}
        card = (tmp_path / folder / "README.md").read_text()
        assert f"- Base model: `{lm}` (fingerprint " in card
        assert "- Method: ROME, weights transformer.h.0.mlp.c_proj.weight" in card
        assert "- Edited facts: 4" in card
        assert "| Paris is the capital of | France | Peru |" in card


def test_a_card_tells_the_perplexity_of_the_last_edit_that_stands(lm, tmp_path):
    callbacks = [*watching(threshold=1e9), SavePretrained()]
    run = fit(lm, tmp_path, callbacks, REQUESTS[:2])
    told = f"{run.column('perplexity')[-1]:.4g} (unedited {run.editor.baseline['perplexity']:.4g})"
    assert f"- Perplexity of the watched text: {told}" in (tmp_path / "lm/README.md").read_text()
