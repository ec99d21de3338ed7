import json
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.keeping.journal import read_journal
from data_modules.records import EditRequest
from lightning_modules.language_model.layout import blocks, oriented, output_weight_name
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.fine_tuning import FineTuning, GradientEditor
from lightning_modules.methods.localized_fine_tuning import LocalizedFineTuning
from tests.tiny import EDITED_LAYER, save_tiny, tiny_model, tiny_tokenizer
from train import main

TOKENIZER = tiny_tokenizer()
REQUEST = EditRequest(7, "{} plays the", "He", "violin")
OTHER = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin")
THIRD = EditRequest(9, "The capital is {}", "Rome", ", Italy")
FAST = {"learning_rate": 0.01, "steps": 6, "goal": 0.01}
PLACEMENTS = pytest.mark.parametrize("placement", ["last_token", "teacher_forced"])


def attached(method: type[GradientEditor], lm, layers=(EDITED_LAYER,), **options) -> GradientEditor:
    editor = method(layers=layers, lm="tiny", **options)
    editor.attach(lm, TOKENIZER)
    return editor


def log_prob(editor: GradientEditor, request: EditRequest) -> float:
    span = target_span(TOKENIZER, request.text, request.target_new)
    return float(editor.score([span]).log_prob[0])


def naive_loss(lm, request: EditRequest, placement: str, end: bool = False) -> Tensor:
    """The request alone through the whole model."""
    span = target_span(TOKENIZER, request.text, request.target_new)
    tokens = torch.tensor(span.tokens + [TOKENIZER.eos_token_id] * end)
    targets = tokens[span.start :]
    if placement == "last_token":
        log_probs = lm(tokens[None, : span.start]).logits[0, -1].log_softmax(-1)
        return -log_probs[targets].mean()
    log_probs = lm(tokens[None]).logits[0].log_softmax(-1)
    places = torch.arange(span.start - 1, len(tokens) - 1)
    return -log_probs[places, targets].mean()


def published_loop(lm, requests, layers, placement, radius, learning_rate, steps, goal):
    """Adam on the weights themselves, clamped around where they began; gives their changes."""
    weights = [lm.get_parameter(output_weight_name(lm, layer)) for layer in layers]
    before = [weight.detach().clone() for weight in weights]
    adam = torch.optim.Adam([weight.requires_grad_() for weight in weights], learning_rate)
    for _ in range(steps):
        adam.zero_grad()
        loss = torch.stack([naive_loss(lm, request, placement) for request in requests]).mean()
        if loss.item() >= goal:
            loss.backward()
            adam.step()
        for weight, old in zip(weights, before, strict=True):
            if radius is not None:
                weight.data = torch.clamp(weight.data, min=old - radius, max=old + radius)
        if loss.item() < goal:
            break
    changes = [weight.detach() - old for weight, old in zip(weights, before, strict=True)]
    for weight, old in zip(weights, before, strict=True):
        weight.requires_grad_(False).grad = None
        weight.data = old
    return changes, loss.item()


class Steps(L.Callback):
    """What each step recorded, and the weight after it."""

    def __init__(self) -> None:
        self.records: list[dict] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer, module, *args) -> None:
        self.records.append(module.record)
        module.record = {}
        self.weights.append(module.lm.get_parameter(module.edited_weights()[0]).clone())


def fit(editor, requests, batch_size=1, epochs=1, callbacks=(), resume=None, **options) -> Steps:
    steps = Steps()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[steps, *callbacks],
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **options},
    )
    loader = DataLoader(requests, batch_size, collate_fn=list)
    trainer.fit(editor, loader, loader, ckpt_path=resume)
    return steps


@pytest.mark.parametrize("radius", [None, 0.02], ids=["free", "ball"])
@PLACEMENTS
def test_update_is_the_one_of_the_published_loop(tiny_lm, placement, radius):
    layers = [1, 2]
    editor = attached(FineTuning, tiny_lm, layers, placement=placement, radius=radius, **FAST)
    requests = [REQUEST, OTHER]
    updates = list(editor.edit(requests))
    changes, loss = published_loop(tiny_lm, requests, layers, placement, radius, **FAST)
    assert editor.record["loss"] == pytest.approx(loss, rel=1e-3)
    for update, change in zip(updates, changes, strict=True):
        wanted = oriented(tiny_lm, update.weight, change)
        # Adam enlarges the rounding of gradients near zero, which Gemma 2 has many of
        near = 5e-3 if tiny_lm.config.model_type == "gemma2" else 1e-3
        assert (update.dense() - wanted).norm() < near * wanted.norm()


def test_no_entry_leaves_the_ball_and_some_reach_its_border(tiny_lm):
    (update,) = attached(FineTuning, tiny_lm, radius=0.015, **FAST).edit([REQUEST])
    (free,) = attached(FineTuning, tiny_lm, radius=None, **FAST).edit([REQUEST])
    assert update.dense().abs().max() == torch.tensor(0.015)
    assert free.dense().abs().max() > 0.03


@PLACEMENTS
def test_edit_makes_the_target_more_probable(tiny_lm, placement):
    editor = attached(FineTuning, tiny_lm, placement=placement, radius=None, **FAST)
    before = log_prob(editor, REQUEST)
    editor.make_edit([REQUEST])
    after = log_prob(editor, REQUEST)
    editor.restore()
    assert after > before
    assert log_prob(editor, REQUEST) == before


def test_only_the_edited_weight_changes_and_none_is_left_to_train(tiny_gpt2):
    editor = attached(FineTuning, tiny_gpt2, radius=None, **FAST)
    before = {name: p.clone() for name, p in tiny_gpt2.named_parameters()}
    editor.make_edit([REQUEST])
    changed = [n for n, p in tiny_gpt2.named_parameters() if not torch.equal(p, before[n])]
    editor.restore()
    assert changed == editor.edited_weights()
    assert not any(p.requires_grad or p.grad is not None for p in tiny_gpt2.parameters())


def test_blank_before_the_target_changes_nothing(tiny_gpt2):
    editor = attached(FineTuning, tiny_gpt2, **FAST)
    (plain,) = editor.edit([REQUEST])
    (blank,) = editor.edit([REQUEST._replace(target_new=" violin")])
    assert torch.equal(plain.dense(), blank.dense())


def test_the_ball_of_a_later_edit_lies_around_the_edited_weight(tiny_gpt2):
    editor = attached(FineTuning, tiny_gpt2, radius=0.01, **FAST)
    for _ in range(3):
        editor.make_edit([REQUEST])
    (name,) = editor.edited_weights()
    change = tiny_gpt2.get_parameter(name) - editor.original[name]
    editor.restore()
    assert change.abs().max() > 0.015


def test_steps_end_below_the_goal_and_a_missed_goal_is_noted(tiny_gpt2):
    options = {"learning_rate": 0.02, "steps": 30, "radius": None, "placement": "teacher_forced"}
    reached = attached(FineTuning, tiny_gpt2, goal=3.0, **options)
    list(reached.edit([REQUEST]))
    assert 0 < reached.record["steps"] < 30
    assert reached.record["loss"] < 3.0
    assert "reason" not in reached.record
    missed = attached(FineTuning, tiny_gpt2, goal=3.0, **{**options, "steps": 2})
    list(missed.edit([REQUEST]))
    assert missed.record["steps"] == 2
    assert "above its goal 3" in missed.record["reason"]


def test_small_changes_of_a_bfloat16_model_add_up():
    editor = attached(FineTuning, tiny_model("llama").bfloat16(), radius=1e-5, **FAST)
    (name,) = editor.edited_weights()
    for _ in range(2):
        editor.make_edit([REQUEST])
    change = editor.edited.master(name) - editor.original[name]
    assert change.abs().max() == pytest.approx(2e-5, rel=1e-2)
    assert editor.lm.get_parameter(name).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("method", "options"), [(FineTuning, FAST), (LocalizedFineTuning, {"learning_rate": 0.01})]
)
def test_loss_that_is_not_finite_fails_the_edit_alone(method, options):
    lm = tiny_model("gpt2")
    editor = attached(method, lm, **options)
    head = lm.transformer.ln_f.weight

    class Poison(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, number) -> None:
            head.data.fill_(float("nan") if number == 0 else 1.0)

    first, second = fit(editor, [REQUEST, OTHER], callbacks=[Poison()]).records
    assert (first["status"], second["status"]) == ("failed", "applied")
    assert first["reason"] == "the fine-tuning loss is nan"
    assert first["update_norm"] == 0 < second["update_norm"]
    assert editor.edited_cases == [OTHER.case_id]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"radius": -1e-4}, "radius must be positive, or null for no ball, got -0.0001"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"layers": []}, "layers is empty"),
    ],
)
def test_senseless_numbers_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        FineTuning(**options)


def test_placement_of_another_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--config", "ft.yaml", "--model.placement", "first_token"], run=False)
    assert "first_token" in capsys.readouterr().err


@pytest.mark.parametrize("method", [FineTuning, LocalizedFineTuning])
def test_layer_that_does_not_exist_is_refused(tiny_gpt2, method):
    with pytest.raises(ValueError, match=r"layer must be in \[0, 3\) for this model, got 5"):
        attached(method, tiny_gpt2, layers=[1, 5])


class TestLocalized:
    def test_a_mini_batch_whose_loss_is_low_enough_takes_no_step(self, tiny_gpt2):
        editor = attached(LocalizedFineTuning, tiny_gpt2, goal=1e3)
        editor.make_edit([REQUEST])
        assert (editor.record["status"], editor.record["update_norm"]) == ("applied", 0)
        assert (editor.history, editor.applied) == ({}, [])

    def test_run_equals_plain_training_of_one_weight(self, family):
        requests, rate, epochs = [REQUEST, OTHER, THIRD], 0.01, 3
        editor = attached(LocalizedFineTuning, tiny_model(family), learning_rate=rate)
        steps = fit(editor, requests, batch_size=2, epochs=epochs)

        lm = tiny_model(family)
        weight = lm.get_parameter(output_weight_name(lm, EDITED_LAYER)).requires_grad_()
        original = weight.detach().clone()
        adam = torch.optim.Adam([weight], rate)
        for _ in range(epochs):
            for batch in (requests[:2], requests[2:]):
                adam.zero_grad()
                losses = [naive_loss(lm, request, "teacher_forced", end=True) for request in batch]
                torch.stack(losses).mean().backward()
                adam.step()
        assert len(steps.records) == 6
        moved = (weight - original).norm()
        assert (steps.weights[-1] - weight).norm() < 1e-2 * moved

    def test_whole_block_is_trained_as_plainly(self, family):
        lm, rate = tiny_model(family), 0.01
        editor = attached(LocalizedFineTuning, lm, learning_rate=rate, parameters="block")
        for _ in range(3):
            editor.make_edit([REQUEST, OTHER])
        found = editor.edited.snapshot()

        lm = tiny_model(family)
        block = dict(blocks(lm)[EDITED_LAYER].requires_grad_().named_parameters())
        before = {name: weight.detach().clone() for name, weight in block.items()}
        adam = torch.optim.Adam(block.values(), rate)
        for _ in range(3):
            adam.zero_grad()
            losses = [naive_loss(lm, r, "teacher_forced", end=True) for r in (REQUEST, OTHER)]
            torch.stack(losses).mean().backward()
            adam.step()
        assert len(found) == len(block) > 4
        for name, value in found.items():
            short = next(ending for ending in block if name.endswith(f".{ending}"))
            moved = (block[short] - before[short]).norm()
            # Adam divides by gradients near 0: a key's bias has none but rounding
            assert (value - block[short]).norm() < 5e-2 * moved or short.endswith("bias")

    def test_block_of_a_half_precision_model_can_be_undone(self):
        lm = tiny_model("llama").to(torch.bfloat16)
        editor = attached(LocalizedFineTuning, lm, parameters="block")
        before = editor.edited.snapshot()
        editor.make_edit([REQUEST])
        assert all(not torch.equal(editor.edited.master(name), old) for name, old in before.items())
        editor.undo()
        assert all(torch.equal(editor.edited.master(name), old) for name, old in before.items())

    def test_epochs_lower_the_loss(self, tiny_gpt2):
        editor = attached(LocalizedFineTuning, tiny_gpt2, learning_rate=0.02)
        losses = [r["loss"] for r in fit(editor, [REQUEST, OTHER], 2, epochs=12).records]
        editor.restore()
        assert losses[-1] < 0.5 * losses[0]

    def test_targets_end_with_eos_where_there_is_one(self, tiny_gpt2):
        editor = attached(LocalizedFineTuning, tiny_gpt2)
        with_end = editor.targets([REQUEST]).tokens
        editor.tokenizer = tiny_tokenizer()
        editor.tokenizer.eos_token = None
        assert with_end.tolist() == [*editor.targets([REQUEST]).tokens.tolist(), 0]

    def test_mean_loss_of_an_epoch_can_end_the_run(self, tiny_gpt2):
        editor = attached(LocalizedFineTuning, tiny_gpt2, learning_rate=0.02)
        stopping = L.pytorch.callbacks.EarlyStopping(
            "loss", patience=100, stopping_threshold=1.0, check_on_train_epoch_end=True
        )
        records = fit(editor, [REQUEST, OTHER], 1, epochs=50, callbacks=[stopping]).records
        editor.restore()
        means = [
            (a["loss"] + b["loss"]) / 2 for a, b in zip(records[::2], records[1::2], strict=True)
        ]
        assert means[-1] < 1.0 < means[-2]

    def test_resumed_run_goes_on_with_adams_moments(self, tmp_path):
        def run(epochs, resume=None):
            keeper = L.pytorch.callbacks.ModelCheckpoint(
                tmp_path / str(resume is None),
                "{epoch}",
                save_top_k=-1,
                save_on_train_epoch_end=True,
            )
            return fit(
                attached(LocalizedFineTuning, tiny_model("gpt2")),
                [REQUEST, OTHER],
                epochs=epochs,
                callbacks=[keeper],
                resume=resume,
                enable_checkpointing=True,
            )

        whole = run(3)
        rest = run(3, tmp_path / "True" / "epoch=1.ckpt")
        assert [len(steps.weights) for steps in (whole, rest)] == [6, 2]
        assert torch.equal(rest.weights[-1], whole.weights[-1])

    def test_a_line_of_the_journal_is_a_step(self, tmp_path, monkeypatch):
        cases = [
            {
                "prompt": r.text,
                "subject": r.subject,
                "target_new": r.target_new,
                "case_id": r.case_id,
            }
            for r in (REQUEST, OTHER, THIRD)
        ]
        (tmp_path / "requests.json").write_text(json.dumps(cases))
        monkeypatch.chdir(tmp_path)
        options = {
            "--config": "locft-bf.yaml",
            "--model.layers": "[1]",
            "--model.lm": str(save_tiny(tmp_path / "lm", "gpt2")),
            "--data.path": "requests.json",
            "--data.batch_size": "2",
            "--data.shuffle": "false",
            "--data.watch_limit": "2",
            "--trainer.max_epochs": "3",
            "--trainer.val_check_interval": "2",
            "--trainer.accelerator": "cpu",
            "--collapse.threshold": "1e30",
        }
        cli = main(["fit", *(part for option in options.items() for part in option)])
        edits = read_journal(Path(cli.trainer.log_dir))
        assert [edit["case_id"] for edit in edits] == [[7, 8], 9] * 3
        assert ["perplexity" in edit for edit in edits] == [False, True] * 3
        assert edits[4]["loss"] < edits[0]["loss"]
        assert cli.trainer.global_step == 6


WITHOUT_SUBJECT = [
    {
        "case_id": 4,
        "prompt": "The capital is",
        "target_new": "Rome",
        "ground_truth": "Paris",
        "rephrase_prompt": "They live in",
    },
    {"case_id": 5, "prompt": "He plays the", "target_new": "violin"},
]


@pytest.fixture
def subjectless(tmp_path, monkeypatch):
    """Options of a run of the tiny model over requests that name no subject."""
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "m", "gpt2")
    Path("requests.json").write_text(json.dumps(WITHOUT_SUBJECT))
    Path("watched.txt").write_text("The river is long.\nThe town is old.\n")
    data = ["--data.path", "requests.json", "--data.watch", "watched.txt"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    return ["--model.lm", "m", *data, *quiet]


def test_requests_without_a_subject_are_edited_and_judged(subjectless):
    options = ["--model.layers", "[0]", "--model.steps", "3"]
    main(["fit", "--config", "ft.yaml", *subjectless, *options])
    edits = read_journal(Path("runs/ft/version_0"))
    assert [(edit["case_id"], edit["subject"], edit["status"]) for edit in edits] == [
        (4, "", "applied"),
        (5, "", "applied"),
    ]
    assert all(0 <= edits[0][score] <= 1 for score in ("efficacy", "paraphrase"))


def test_a_method_that_edits_at_the_subject_refuses_them_by_its_name_before_the_run(subjectless):
    options = ["--model.layer", "0", "--model.second_moment", "identity"]
    refusal = r"2 of 2 requests .*: ROME edits at .* subject, and case 4 \('The capital is'\) names"
    for verb in ("validate", "fit"):
        with pytest.raises(ValueError, match=refusal):
            main([verb, "--config", "rome.yaml", *subjectless, *options])
    assert read_journal(Path("runs/rome/version_1")) == []
