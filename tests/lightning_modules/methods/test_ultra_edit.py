import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from data_modules.records import EditRequest
from lightning_modules.language_model.layout import oriented, output_map
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.ultra_edit import UltraEdit
from tests.callbacks.runs import data_of, tiny_lm, trainer_in
from tests.published import Largest, Published
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
REQUESTS = [
    EditRequest(7, "{} plays the", "He", "violin"),
    EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
    EditRequest(9, "The capital of {} is", "Italy", "Geneva"),
    EditRequest(10, "{} lived in", "Mary", "Athens"),
]
LAYERS = (0, 1)
RATE = 1e-3


def editor_of(lm, rate: float = RATE, layers=LAYERS, token="all", **options) -> UltraEdit:
    editor = UltraEdit(layers, rate, token, lm="tiny", **options)
    editor.attach(lm, TOKENIZER)
    return editor


def naive_factors(lm, requests, token="all") -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per layer the keys and output gradients of the tokens, one request after another."""
    spans = [target_span(TOKENIZER, r.text, r.target_new) for r in requests]
    tokens = sum(len(span.tokens) - span.start for span in spans)
    found = {layer: ([], []) for layer in LAYERS}
    for span in spans:
        seen = {}

        def keep(layer, seen):
            def hook(module, args, value):
                value.requires_grad_(True).retain_grad()
                seen[layer] = args[0].detach()[0], value

            return hook

        handles = [output_map(lm, n).register_forward_hook(keep(n, seen)) for n in LAYERS]
        logits = lm(torch.tensor([span.tokens[:-1]])).logits[0, span.start - 1 :]
        wanted = torch.tensor(span.tokens[span.start :])
        loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / tokens
        loss.backward()
        for handle in handles:
            handle.remove()
        for layer, (keys, output) in seen.items():
            first = span.start - 1 if token == "ans" else 0
            found[layer][0].append(keys[first:])
            found[layer][1].append(output.grad[0][first:])
    return [tuple(torch.cat(part).double() for part in found[layer]) for layer in LAYERS]


def naive_changes(factors, past) -> list[torch.Tensor]:
    """The equation with an inverse of ``(in, in)``; ``past`` holds every row seen so far."""
    past += [torch.cat(pair, 1) for pair in factors]
    seen = torch.cat(past)
    changes = []
    for keys, gradients in factors:
        rows = (torch.cat([keys, gradients], 1) - seen.mean(0)) / seen.std(0)
        h, v = rows[:, : keys.shape[1]], rows[:, keys.shape[1] :]
        values = torch.stack([-RATE * (h[n] @ h[n]) * v[n] for n in range(len(rows))])
        ridge = keys.T @ keys + torch.eye(keys.shape[1])
        changes.append((ridge.inverse() @ keys.T @ values).T)
    return changes


@pytest.mark.parametrize("token", ["ans", "all"])
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_edits_in_sequence_are_the_equations(family, token):
    lm = tiny_model(family)
    editor = editor_of(lm, token=token)
    past = []
    for batch in (REQUESTS[:3], REQUESTS[3:]):
        expected = naive_changes(naive_factors(lm, batch, token), past)
        before = [oriented(lm, name).clone() for name in editor.edited_weights()]
        editor.make_edit(batch)
        assert editor.record["status"] == "applied"
        for name, old, change in zip(editor.edited_weights(), before, expected, strict=True):
            found = (oriented(lm, name) - old).double()
            assert (found - change).norm() < 1e-3 * change.norm()


def test_change_is_the_ridge_solution(tiny_gpt2):
    editor = editor_of(tiny_gpt2)
    factors = naive_factors(tiny_gpt2, REQUESTS)
    seen = torch.cat([torch.cat(pair, 1) for pair in factors])
    for update, (keys, gradients) in zip(editor.edit(REQUESTS), factors, strict=True):
        rows = (torch.cat([keys, gradients], 1) - seen.mean(0)) / seen.std(0)
        h, v = rows.split([keys.shape[1], gradients.shape[1]], 1)
        wanted = -RATE * h.square().sum(1, keepdim=True) * v
        width = keys.shape[1]
        stacked = torch.cat([keys, torch.eye(width)])
        solution = torch.linalg.lstsq(
            stacked, torch.cat([wanted, wanted.new_zeros(width, wanted.shape[1])])
        ).solution
        torch.testing.assert_close(update.dense(), solution.T, rtol=1e-3, atol=1e-5)


def test_change_grows_with_the_rate(tiny_gpt2):
    small, large = (
        next(editor_of(tiny_gpt2, rate).edit(REQUESTS)).dense() for rate in (1e-4, 3e-4)
    )
    torch.testing.assert_close(3 * small, large)


def test_undone_edit_leaves_no_trace_in_the_moments():
    editor = editor_of(tiny_model("gpt2"))
    editor.make_edit(REQUESTS[:1])
    kept = {name: moment.clone() for name, moment in editor.history.items()}
    editor.make_edit(REQUESTS[1:])
    assert editor.history["moments/48x32/seen"] > kept["moments/48x32/seen"]
    editor.undo()
    assert all(torch.equal(editor.history[name], moment) for name, moment in kept.items())
    editor.restore()
    assert editor.history == {}


def test_two_runs_do_not_share_moments():
    editors = [editor_of(tiny_model("gpt2")) for _ in range(2)]
    for batch in (REQUESTS[:2], REQUESTS[2:]):
        for editor in editors:
            editor.make_edit(batch)
    for name in editors[0].edited_weights():
        one, other = (editor.edited.master(name) for editor in editors)
        assert torch.equal(one, other)


def test_last_batch_may_be_smaller_and_a_resumed_run_goes_on(tmp_path):
    """B32, B33: what is remembered of past edits travels in the checkpoint and nowhere else."""
    lm = tiny_lm(tmp_path / "lm")

    def fit(folder, steps: int = -1, resume=None) -> UltraEdit:
        data, editor = data_of(), UltraEdit(LAYERS, RATE, lm=lm)
        data.batch_size = 3
        saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_in(folder, [saves], enable_checkpointing=True, max_steps=steps)
        trainer.fit(editor, datamodule=data, ckpt_path=resume)
        return editor

    whole = fit(tmp_path / "whole")
    assert whole.edited_cases == [10, 11, 12, 13]
    fit(tmp_path / "part", steps=1)
    resumed = fit(tmp_path / "rest", resume=tmp_path / "part" / "step=1.ckpt")
    assert {path.suffix for path in (tmp_path / "part").iterdir()} == {".ckpt"}
    for name in whole.edited_weights():
        assert torch.equal(whole.edited.master(name), resumed.edited.master(name))
    for name, moment in whole.history.items():
        assert torch.equal(moment, resumed.history[name])


def test_subject_is_not_needed(tiny_gpt2):
    whole = [r._replace(prompt="{}", subject=r.text) for r in REQUESTS]
    for one, other in zip(
        editor_of(tiny_gpt2).edit(REQUESTS), editor_of(tiny_gpt2).edit(whole), strict=True
    ):
        assert torch.equal(one.left, other.left)


def test_rate_must_be_positive():
    with pytest.raises(ValueError, match=r"rate must be positive, got -1e-06"):
        UltraEdit(rate=-1e-6)


def test_layers_must_exist(tiny_gpt2):
    with pytest.raises(ValueError, match="layers is empty"):
        UltraEdit(layers=[])
    with pytest.raises(ValueError, match=r"layer must be in \[0, 3\) for this model, got 5"):
        editor_of(tiny_gpt2, layers=[5])


def test_answers_are_the_default_and_the_published_variance_is_not():
    editor = UltraEdit()
    assert (editor.token, editor.as_published) == ("ans", False)


def test_maps_inside_the_mlp_can_be_edited(tiny_llama):
    editor = editor_of(tiny_llama, maps=["gate_proj", "up_proj"])
    names = [update.weight for update in editor.edit(REQUESTS)]
    inside = [f"model.layers.{n}.mlp.{name}.weight" for n in LAYERS for name in editor.maps]
    assert names == inside == editor.edited_weights()
    assert set(editor.history) == {f"moments/32x48/{n}" for n in ("seen", "mean", "squares")}


def test_maps_may_have_layers_of_their_own(tiny_llama):
    maps = {"up_proj": [1, 2], "gate_proj": [0, 1]}
    names = [update.weight for update in editor_of(tiny_llama, maps=maps).edit(REQUESTS)]
    inside = [(0, "gate"), (1, "up"), (1, "gate"), (2, "up")]
    assert names == [f"model.layers.{layer}.mlp.{name}_proj.weight" for layer, name in inside]


def test_a_map_that_the_mlp_lacks_is_named(tiny_gpt2):
    with pytest.raises(ValueError, match="has no linear map 'gate_proj', but c_fc, c_proj"):
        editor_of(tiny_gpt2, maps=["gate_proj"])


def test_published_variance_of_a_single_row_fails_the_edit():
    editor = editor_of(tiny_model("gpt2"), token="ans", as_published=True)
    one = REQUESTS[0]._replace(target_new="a")
    editor.make_edit([one])
    assert editor.record["status"] == "failed"


@pytest.mark.parametrize("token", ["ans", "all"])
@pytest.mark.parametrize("scenario", ["eight", "seq"])
def test_edits_equal_the_published_ones(shared_data, token, scenario):
    published = Published(shared_data)
    editor, found = UltraEdit([3, 4], 1e-6, token, None, True, lm=published.lm), Largest()
    editor.configure_model()
    probe = published.tensors["probe.1024"].double()
    for number, batch in enumerate(published.batches(scenario, published.small["cases"])):
        editor.make_edit(batch)
        for layer, update in zip(editor.layers, editor.applied, strict=True):
            name = f"ultra.{token}.{scenario}.{number}.{layer}.sketch"
            found.note("changes", update.dense().double() @ probe, published.tensors[name])
    assert found["changes"] < 1e-4
