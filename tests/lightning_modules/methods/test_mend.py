import pytest
import torch
from safetensors.torch import load_file, save_file

from data_modules.embedded import embedded_requests
from data_modules.meta_training import held_out
from data_modules.records import EditRequest
from lightning_modules.editing.hypernetwork import (
    Hypernetwork,
    load_hypernetwork,
    save_hypernetwork,
)
from lightning_modules.language_model.gradients import Factors, gradient_factors, mlp_weight_names
from lightning_modules.language_model.layout import oriented
from lightning_modules.language_model.loading import artefact_file, fingerprint
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.mend import MEND
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
REQUESTS = [
    EditRequest(7, "{} plays the", "He", "violin"),
    EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
]
SPANS = [target_span(TOKENIZER, r.text, r.target_new) for r in REQUESTS]
RATE = 0.01


def shapes_of(lm) -> dict[str, tuple[int, ...]]:
    names = [name for layer in (1, 2) for name in mlp_weight_names(lm, layer)]
    return {name: tuple(oriented(lm, name).shape) for name in names}


def trained(lm) -> Hypernetwork:
    """A hypernetwork none of whose parameters is at its initial value."""
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(shapes_of(lm), rank=3)
    for parameter in hypernetwork.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    hypernetwork.observe(gradient_factors(lm, SPANS, list(hypernetwork.shapes)))
    return hypernetwork


def editor_with(lm, hypernetwork: Hypernetwork, folder) -> MEND:
    file = folder / "mend.safetensors"
    save_hypernetwork(file, hypernetwork, "tiny", fingerprint(lm, TOKENIZER))
    editor = MEND(str(file), lm="tiny")
    editor.attach(lm, TOKENIZER)
    return editor


@pytest.fixture(params=["gpt2", "gptj", "llama"])
def lm(request):
    return tiny_model(request.param)


def test_untrained_it_is_a_step_down_the_gradient(lm, tmp_path):
    hypernetwork = Hypernetwork(shapes_of(lm), rank=3, edit_rate=RATE)
    editor = editor_with(lm, hypernetwork, tmp_path)
    weights = [lm.get_parameter(name) for name in editor.edited_weights()]
    for weight in weights:
        weight.requires_grad_(True)
    counts = [len(span.tokens) - span.start for span in SPANS]
    means = [lm(torch.tensor([s.tokens]), labels=labels_of(s)).loss for s in SPANS]
    loss = sum(n * mean for n, mean in zip(counts, means, strict=True)) / sum(counts)
    gradients = torch.autograd.grad(loss, weights)
    lm.requires_grad_(False)
    before = [weight.clone() for weight in weights]
    editor.make_edit(REQUESTS)
    assert editor.record["status"] == "applied"
    for old, new, gradient in zip(before, weights, gradients, strict=True):
        torch.testing.assert_close(new - old, -RATE * gradient, rtol=1e-2, atol=1e-5)


def labels_of(span) -> torch.Tensor:
    ignored = [-100] * span.start
    return torch.tensor([ignored + span.tokens[span.start :]])


def test_low_rank_change_is_the_sum_over_tokens(lm):
    hypernetwork = trained(lm)
    factors = gradient_factors(lm, SPANS, list(hypernetwork.shapes))
    changes = hypernetwork(factors)
    for number, (name, shape) in enumerate(hypernetwork.shapes.items()):
        transform = hypernetwork.transforms["x".join(map(str, shape))]
        same = [other for other in hypernetwork.shapes if hypernetwork.shapes[other] == shape]
        dense = torch.zeros(shape)
        for u, delta in zip(*factors[name], strict=True):
            new_u, new_delta = transform(u[None], delta[None], same.index(name))
            dense -= hypernetwork.rates[number] * torch.outer(new_delta[0], new_u[0])
        left, right = changes[name]
        torch.testing.assert_close(left @ right, dense, rtol=1e-3, atol=1e-5)


def test_weights_of_one_shape_share_a_transform(lm):
    shapes = shapes_of(lm)
    hypernetwork = Hypernetwork(shapes, rank=3)
    assert len(hypernetwork.transforms) == len(set(shapes.values())) == 2
    scales = sum(len(t.hidden.scale) for t in hypernetwork.transforms.values())
    assert scales == len(hypernetwork.rates) == len(shapes)


def test_edit_of_a_batch_weighs_every_target_token_alike(lm, tmp_path):
    editor = editor_with(lm, trained(lm), tmp_path)
    together = {update.weight: update.dense() for update in editor.edit(REQUESTS)}
    counts = [len(span.tokens) - span.start for span in SPANS]
    shares = [count / sum(counts) for count in counts]
    alone = [gradient_factors(lm, [span], editor.edited_weights()) for span in SPANS]
    factors = {
        name: Factors(
            torch.cat([one[name].inputs for one in alone]),
            torch.cat([s * one[name].gradients for s, one in zip(shares, alone, strict=True)]),
        )
        for name in editor.edited_weights()
    }
    for name, (left, right) in editor.hypernetwork(factors).items():
        torch.testing.assert_close(together[name], left @ right, rtol=1e-3, atol=1e-5)


def test_edit_is_undone_exactly(lm, tmp_path):
    editor = editor_with(lm, trained(lm), tmp_path)
    before = editor.edited.snapshot()
    editor.make_edit(REQUESTS)
    assert editor.record["update_norm"] > 0
    editor.undo()
    assert all(torch.equal(editor.edited.master(name), old) for name, old in before.items())


def test_model_that_has_collapsed_is_left_as_it_is(lm, tmp_path):
    editor = editor_with(lm, trained(lm), tmp_path)
    lm.get_output_embeddings().weight.fill_(torch.inf)
    editor.make_edit(REQUESTS)
    assert editor.record["status"] == "failed"
    assert "loss of the requests" in editor.record["reason"]
    assert editor.record["update_norm"] == 0


def test_half_precision_model_takes_an_edit(tmp_path):
    lm = tiny_model("llama")
    hypernetwork = trained(lm)
    editor = editor_with(lm.to(torch.bfloat16), hypernetwork, tmp_path)
    editor.make_edit(REQUESTS)
    assert editor.record["status"] == "applied"
    assert {update.left.dtype for update in editor.applied} == {torch.float32}


def test_saved_hypernetwork_comes_back(tiny_gpt2, tmp_path):
    kept = trained(tiny_gpt2)
    save_hypernetwork(tmp_path / "a" / "mend.safetensors", kept, "tiny", "0" * 32)
    loaded = load_hypernetwork(str(tmp_path / "a" / "mend.safetensors"), "tiny", "0" * 32)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["mend.safetensors"]
    assert (loaded.shapes, loaded.rank) == (kept.shapes, kept.rank)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    factors = gradient_factors(tiny_gpt2, SPANS, list(kept.shapes))
    expected, found = kept(factors), loaded(factors)
    for name in kept.shapes:
        for one, other in zip(expected[name], found[name], strict=True):
            assert (one - other).norm() < 2e-3 * one.norm()  # matrices are stored in float16


def test_missing_hypernetwork_names_the_command_that_makes_it(tiny_gpt2, tmp_path):
    command = (
        r"no trained hypernetwork of 'org/lm' at .*none; train one with: python train.py fit "
        r"--config mend-training.yaml --model.lm org/lm, or name its file by --model.hypernetwork$"
    )
    with pytest.raises(FileNotFoundError, match=command):
        MEND(str(tmp_path / "none"), lm="org/lm").attach(tiny_gpt2, TOKENIZER)


def test_hypernetwork_of_another_model_is_refused(tiny_gpt2, tmp_path):
    save_hypernetwork(tmp_path / "other", trained(tiny_gpt2), "first", "0" * 32)
    refusal = "other holds a hypernetwork trained for 'first' with other weights than those of 'x'"
    with pytest.raises(ValueError, match=refusal):
        MEND(str(tmp_path / "other"), lm="x").attach(tiny_gpt2, TOKENIZER)


def test_hypernetwork_with_a_linear_last_layer_is_refused(tiny_gpt2, tmp_path):
    file = tmp_path / "old"
    save_hypernetwork(file, trained(tiny_gpt2), "x", "0" * 32)
    about = {"fingerprint": "0" * 32, "lm": "x", "rank": "3", "shapes": "{}"}
    save_file(load_file(file), file, about)  # as written before the transform was named
    refusal = "old holds a hypernetwork whose last layer was trained without.*--model.lm x$"
    with pytest.raises(ValueError, match=refusal):
        load_hypernetwork(str(file), "x", "0" * 32)


@pytest.mark.parametrize("kept", [0, 7, 5000])
def test_damaged_hypernetwork_is_refused(tiny_gpt2, tmp_path, kept):
    file = tmp_path / "mend"
    save_hypernetwork(file, trained(tiny_gpt2), "tiny", "0" * 32)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="mend is not an intact safetensors file"):
        load_hypernetwork(str(file), "tiny", "0" * 32)


def test_shipped_hypernetwork_edits_held_out_requests():
    assert artefact_file("mend", None, "embedded", "").stat().st_size <= 5 * 2**20
    editor = MEND()
    editor.configure_model()
    scores = []
    for request in [r for r in embedded_requests() if held_out(r)][:60]:
        editor.make_edit([request])
        scores.append(editor.judge(request))
        editor.restore()
    for name, least in {"efficacy": 0.5, "paraphrase": 0.8, "neighborhood": 0.8}.items():
        assert sum(score[name] for score in scores) / len(scores) > least
