import pytest
import torch

from callbacks.keeping.run_folder import read_journal
from callbacks.watching.routing_shift import RoutingShift, moved
from lightning_modules.language_model.layout import blocks
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, WATCHED, Run, data_of, fit, trainer_in, watching
from tests.tiny import save_tiny

FIELDS = ("edited_experts", "edited_experts_load", "routing_shift")


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("lm"), "qwen3_moe"))


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory) -> Run:
    return fit(lm, tmp_path_factory.mktemp("run"), [*watching(), RoutingShift()], REQUESTS[:2])


def choices(editor) -> list[list[torch.Tensor]]:
    """The routers' choices by layer for each watched text, which runs alone."""
    found = []
    for text in WATCHED:
        layers = []
        handles = [
            block.mlp.gate.register_forward_hook(
                lambda _, args, output, layers=layers: layers.append(output[2])
            )
            for block in blocks(editor.lm)
        ]
        tokens = editor.tokenizer(text)["input_ids"][:-1]  # the last predicts nothing
        editor.lm(torch.tensor([tokens]), use_cache=False)
        for handle in handles:
            handle.remove()
        found.append(layers)
    return found


def test_last_line_is_the_slow_comparison_of_all_texts(run):
    now = choices(run.editor)
    with run.editor.edited.unedited():
        before = choices(run.editor)
    layers = [zip(*texts, strict=True) for texts in zip(now, before, strict=True)]
    pairs = [pair for text in layers for pair in list(text)[1:]]  # layer 0 is edited
    new = sum(
        sum(expert not in old for expert in row)
        for here, there in pairs
        for row, old in zip(here.tolist(), there.tolist(), strict=True)
    )
    assert run.edits[-1]["routing_shift"] == pytest.approx(
        new / sum(here.numel() for here, _ in pairs)
    )
    edited = {int(update.weight[:-1].partition("[")[2]) for update in run.editor.applied}
    rows = [set(row) for layers in now for row in layers[0].tolist()]
    load = sum(bool(row & edited) for row in rows) / len(rows)
    assert run.edits[-1]["edited_experts_load"] == pytest.approx(load)
    assert run.edits[-1]["edited_experts"] == len(edited)


def test_resumed_run_compares_with_the_unedited_model(run, tmp_path):
    editor = run.editor
    fresh, trainer = RoutingShift(), trainer_in(tmp_path, [])
    texts = data_of()
    texts.setup("fit")
    editor.record = {}
    fresh.on_validation_start(trainer, editor)
    for batch in texts.val_dataloader():
        fresh.on_validation_batch_start(trainer, editor, batch)
        editor.watch(batch)
        fresh.on_validation_batch_end(trainer, editor, None, batch)
    fresh.on_validation_epoch_end(trainer, editor)
    assert editor.record["routing_shift"] == pytest.approx(run.edits[-1]["routing_shift"])


def test_order_of_the_chosen_experts_does_not_count():
    before = torch.tensor([[0, 1], [2, 3]])
    assert moved(torch.tensor([[1, 0], [3, 4]]), before) == 1


def test_dense_model_has_no_such_fields(tmp_path):
    dense = str(save_tiny(tmp_path / "lm", "gpt2"))
    callbacks = [*watching(threshold=1e5), RoutingShift()]
    run = fit(dense, tmp_path / "run", callbacks, REQUESTS[:1])
    assert not set(FIELDS) & set(run.edits[0])


def test_edit_of_the_last_layer_shifts_no_routing(lm, tmp_path):
    editor = ROME(lm=lm, **{**METHOD, "layer": 2})
    callbacks = [*watching(), RoutingShift()]
    trainer_in(tmp_path, callbacks).fit(editor, datamodule=data_of(REQUESTS[:1]))
    (edit,) = read_journal(tmp_path)
    assert "routing_shift" not in edit
    assert edit["edited_experts"] == 2
