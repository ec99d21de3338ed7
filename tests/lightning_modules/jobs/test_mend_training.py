import json
import random
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from data_modules.records import EditRequest, Probe
from lightning_modules.editing.hypernetwork import load_hypernetwork
from lightning_modules.jobs.mend_training import MENDTraining, one_of_each
from lightning_modules.methods.mend import MEND
from tests.test_resume import started
from tests.tiny import save_tiny
from train import main

REQUESTS = [
    EditRequest(
        7, "{} plays the", "He", "violin", "guitar", ("He plays",), (Probe("She plays", "piano"),)
    ),
    EditRequest(
        8,
        "The mother tongue of {} is",
        "Danielle Vinson",
        "Latin",
        "French",
        ("Vinson spoke", "In Rome, Vinson spoke"),
        (Probe("The mother tongue of Anna is", "Greek"), Probe("George spoke", "Dutch")),
    ),
]
OPTIONS = {"layers": [1], "rank": 4, "edit_rate": 1e-3, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("lm"), "llama")


def loader(requests=REQUESTS) -> DataLoader:
    return DataLoader(requests, batch_size=1, collate_fn=list)


def fit(lm: Path, folder: Path, epochs: int, resume: str | None = None, **options):
    """The module and its trainer after epochs of two edits, each a step."""
    module = MENDTraining(str(lm), output=str(folder / "mend.safetensors"), **(OPTIONS | options))
    saves = ModelCheckpoint(folder / "steps", "{step}", every_n_epochs=1, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[saves],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return module, trainer


@pytest.fixture(scope="module")
def trained(lm, tmp_path_factory):
    """A module after 20 epochs, its metrics, and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    L.seed_everything(0)
    module, trainer = fit(lm, folder, 20)
    return module, trainer.callback_metrics, folder


@torch.no_grad()
def total_loss(module: MENDTraining) -> float:
    losses = [module.losses([r], module.changes([r])) for r in REQUESTS]
    return sum(float(module.edit_weight * one.edit + one.locality) for one in losses)


def test_training_lowers_the_loss(lm, trained):
    module, metrics, _ = trained
    L.seed_everything(0)
    fresh = MENDTraining(str(lm), **OPTIONS)
    fresh.configure_model()
    fresh.changes(REQUESTS, observe=True)
    assert total_loss(module) < 0.7 * total_loss(fresh)
    assert float(metrics["val/loss"]) == pytest.approx(total_loss(module) / 2, rel=1e-4)


def test_only_the_hypernetwork_learns(lm, trained):
    module, *_ = trained
    assert not any(p.requires_grad or p.grad is not None for p in module.lm.parameters())
    groups = module.trainer.optimizers[0].param_groups
    learnt = {id(parameter) for group in groups for parameter in group["params"]}
    assert learnt == {id(parameter) for parameter in module.hypernetwork.parameters()}
    assert [group["lr"] for group in groups] == [1e-2, 1e-4]


PROMPTS = {
    "paraphrases": [("Vinson spoke", "In Rome, Vinson spoke"), ("He plays",)],
    "prompt": [("The mother tongue of Danielle Vinson is",), ("He plays the",)],
    "both": [
        ("The mother tongue of Danielle Vinson is", "Vinson spoke", "In Rome, Vinson spoke"),
        ("He plays the", "He plays"),
    ],
}


@pytest.mark.parametrize("edit_loss", PROMPTS)
def test_loss_is_nll_of_the_targets_and_divergence_at_the_neighbors_texts(trained, edit_loss):
    """Against whole passes, one text after another, of a model whose weights are changed."""
    module, *_ = trained
    module.edit_loss = edit_loss
    requests = [REQUESTS[1], REQUESTS[0]]
    changes = module.changes(requests)
    found = module.losses(requests, changes)
    module.edit_loss = "paraphrases"

    def log_probs(tokens: list[int]) -> torch.Tensor:
        return module.lm(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)

    def nll(prompt: str, target: str) -> torch.Tensor:
        tokens = module.tokenizer(f"{prompt} {target}")["input_ids"]
        start = len(module.tokenizer(prompt)["input_ids"])
        wanted = torch.tensor(tokens[start:])
        return -log_probs(tokens)[start - 1 :].gather(1, wanted[:, None])

    near = [
        module.tokenizer(f"{probe.prompt} {probe.answer}")["input_ids"]
        for request in requests
        for probe in request.neighborhood
    ]
    before = [log_probs(tokens) for tokens in near]
    originals = {name: module.lm.get_parameter(name).clone() for name in changes}
    for name, (left, right) in changes.items():
        module.lm.get_parameter(name).add_((left @ right).detach())
    edit = [
        nll(prompt, request.target_new)
        for request, prompts in zip(requests, PROMPTS[edit_loss], strict=True)
        for prompt in prompts
    ]
    after = [log_probs(tokens) for tokens in near]
    for name, original in originals.items():
        module.lm.get_parameter(name).copy_(original)
    kl = [(b.exp() * (b - a)).sum(1) for b, a in zip(before, after, strict=True)]
    torch.testing.assert_close(found.edit, torch.cat(edit).mean(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.locality, torch.cat(kl).mean(), rtol=1e-3, atol=1e-4)
    assert found.locality > 0


def test_a_step_draws_one_paraphrase_and_one_neighbor():
    drawn = [one_of_each(REQUESTS[1], random.Random(seed)) for seed in range(20)]
    assert {r.paraphrases for r in drawn} == {(text,) for text in REQUESTS[1].paraphrases}
    assert {r.neighborhood for r in drawn} == {(probe,) for probe in REQUESTS[1].neighborhood}
    bare = REQUESTS[1]._replace(paraphrases=(), neighborhood=())
    assert one_of_each(bare, random.Random(0)) == bare


def test_request_without_paraphrases_gives_its_prompt(trained):
    module, *_ = trained
    assert module.prompts(REQUESTS[0]._replace(paraphrases=())) == ("He plays the",)


def test_validation_scores_are_those_of_the_edits_that_mend_makes(lm, trained):
    _, metrics, folder = trained
    editor = MEND(str(folder / "mend.safetensors"), lm=str(lm))
    editor.configure_model()
    scores, before = [], [editor.judge(request) for request in REQUESTS]
    for request in REQUESTS:
        editor.make_edit([request])
        scores.append(editor.judge(request))
        editor.restore()
    for name in scores[0]:
        mean = sum(score[name] for score in scores) / 2
        assert float(metrics[f"val/{name}"]) == pytest.approx(mean, abs=5e-3)  # stored in float16
    near = "neighborhood_token_accuracy"
    drawdown = sum(old[near] - new[near] for old, new in zip(before, scores, strict=True)) / 2
    assert float(metrics["val/drawdown"]) == pytest.approx(drawdown, abs=1e-6)


def test_the_best_hypernetwork_is_kept(lm, tmp_path):
    module, _ = fit(lm, tmp_path, 1)
    best = (tmp_path / "mend.safetensors").read_bytes()
    module.trainer.callback_metrics["val/loss"] = torch.tensor(module.best + 1)
    module.on_validation_end()
    assert (tmp_path / "mend.safetensors").read_bytes() == best
    kept = load_hypernetwork(str(tmp_path / "mend.safetensors"), "lm", module.fingerprint)
    rates = module.hypernetwork.rates.detach().clone()
    assert torch.equal(kept.rates, rates)
    module.hypernetwork.rates.data += 1
    module.trainer.callback_metrics["val/loss"] = torch.tensor(module.best - 1)
    module.on_validation_end()
    kept = load_hypernetwork(str(tmp_path / "mend.safetensors"), "lm", module.fingerprint)
    assert torch.equal(kept.rates, rates + 1)


def test_resumed_training_is_the_uninterrupted_one(lm, trained, tmp_path):
    whole, _, folder = trained
    module, _ = fit(lm, tmp_path, 20, resume=str(folder / "steps" / "step=20.ckpt"))
    for one, other in zip(
        whole.hypernetwork.state_dict().values(),
        module.hypernetwork.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    assert module.best == pytest.approx(whole.best)


def wait_and_kill(process, file: Path) -> None:
    """Kills a process as soon as a file exists."""
    until = time.monotonic() + 60
    while not file.exists() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    process.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_killed_training_goes_on_from_its_last_checkpoint(lm, tmp_path, monkeypatch):
    cases = [r.as_counterfact() for r in REQUESTS]
    cases += [case | {"case_id": case["case_id"] + 10} for case in cases]
    (tmp_path / "requests.json").write_text(json.dumps(cases))
    command = [
        *("fit", "--config", "mend-training.yaml", "--model.lm", str(lm)),
        *("--model.layers", "[1]", "--model.rank", "4", "--model.output", "mend.safetensors"),
        *("--model.learning_rate", "0.01", "--trainer.accumulate_grad_batches", "1"),
        *("--data.path", f"{tmp_path}/requests.json"),
        *("--data.validation_path", f"{tmp_path}/requests.json"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "4"),
    ]
    last = Path("runs/mend-training/version_0/checkpoints/last.ckpt")
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    main(command)
    whole = torch.load(last)
    monkeypatch.chdir(tmp_path / "killed")
    with monkeypatch.context() as patch:  # time to kill it between two epochs
        patch.setattr(MENDTraining, "on_train_epoch_start", lambda _: time.sleep(1))
        wait_and_kill(started(command), last)
    killed = torch.load(last)
    assert killed["global_step"] < whole["global_step"]
    main([*command, "--ckpt_path", str(last)])
    (again,) = set(Path().glob("runs/*/*/checkpoints/last.ckpt")) - {last}
    resumed = torch.load(again)
    assert resumed["global_step"] == whole["global_step"]
    for name, tensor in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], tensor)


def test_checkpoint_holds_the_hypernetwork_alone(trained):
    saved = torch.load(trained[-1] / "steps" / "step=2.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == {
        f"hypernetwork.{name}" for name in trained[0].hypernetwork.state_dict()
    }


def test_checkpoint_of_another_model_is_refused(trained, tmp_path):
    other = save_tiny(tmp_path / "other", "llama", seed=1)
    with pytest.raises(ValueError, match=r"trained for another model than .*other"):
        fit(other, tmp_path, 20, resume=str(trained[-1] / "steps" / "step=2.ckpt"))


def test_request_without_neighbors_is_refused(trained):
    module, *_ = trained
    lonely = REQUESTS[0]._replace(neighborhood=())
    with pytest.raises(ValueError, match=r"case 7 has no neighborhood.*CounterFact or zsRE"):
        module.losses([lonely], module.changes([lonely]))


def test_the_last_three_layers_are_edited_by_default(lm):
    module = MENDTraining(str(lm), rank=2)
    module.configure_model()
    assert len(module.hypernetwork.shapes) == 9
