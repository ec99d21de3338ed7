import pytest
import torch
import torch.nn.functional as F

from lightning_modules.language_model import gradients
from lightning_modules.language_model.gradients import (
    changed,
    gradient_factors,
    mlp_weight_names,
)
from lightning_modules.language_model.layout import oriented, output_weight_name
from lightning_modules.language_model.tokens import target_span
from tests.tiny import LAYERS, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer(bos=True)
SPANS = [
    target_span(TOKENIZER, "He plays the", "violin"),
    target_span(TOKENIZER, "The mother tongue of Danielle Vinson is", "Latin"),
    target_span(TOKENIZER, "Rome", "is old"),
]
MAPS = {"gpt2": 2, "gptj": 2, "gpt_neox": 2, "opt": 2, "phi3": 2}  # three elsewhere


def names_of(lm) -> list[str]:
    return [name for layer in (0, LAYERS - 1) for name in mlp_weight_names(lm, layer)]


def naive_loss(lm, spans) -> torch.Tensor:
    """Mean NLL of all target tokens, each text alone and unpadded."""
    nll = []
    for span in spans:
        logits = lm(torch.tensor([span.tokens])).logits[0, span.start - 1 : -1]
        wanted = torch.tensor(span.tokens[span.start :])
        nll.append(F.cross_entropy(logits, wanted, reduction="none"))
    return torch.cat(nll).mean()


def naive_gradients(lm, spans, names) -> list[torch.Tensor]:
    weights = [lm.get_parameter(name) for name in names]
    for weight in weights:
        weight.requires_grad_(True)
    found = torch.autograd.grad(naive_loss(lm, spans), weights)
    for weight in weights:
        weight.requires_grad_(False)
    return [oriented(lm, name, g) for name, g in zip(names, found, strict=True)]


def test_recomposed_factors_are_autograds_gradient(tiny_lm):
    names = names_of(tiny_lm)
    factors = gradient_factors(tiny_lm, SPANS, names)
    for name, expected in zip(names, naive_gradients(tiny_lm, SPANS, names), strict=True):
        found = factors[name].gradients.T @ factors[name].inputs
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_maps_are_those_of_the_mlp_and_nothing_else(tiny_lm, family):
    names = mlp_weight_names(tiny_lm, 1)
    assert len(names) == MAPS.get(family, 3)
    assert output_weight_name(tiny_lm, 1) in names
    assert all(48 in tiny_lm.get_parameter(n).shape or "gate_up" in n for n in names)


def test_layer_that_does_not_exist_is_refused(tiny_gpt2):
    with pytest.raises(ValueError, match=rf"layer must be in \[0, {LAYERS}\).* got {LAYERS}"):
        mlp_weight_names(tiny_gpt2, LAYERS)


def test_tokens_without_influence_on_the_loss_have_no_row(tiny_gpt2):
    first, last = (output_weight_name(tiny_gpt2, layer) for layer in (0, LAYERS - 1))
    factors = gradient_factors(tiny_gpt2, SPANS, [first, last])
    assert len(factors[first].inputs) == sum(len(span.tokens) - 1 for span in SPANS)
    assert len(factors[last].inputs) == sum(len(span.tokens) - span.start for span in SPANS)


def test_rows_at_targets_are_those_that_predict_them(tiny_gpt2):
    (name,) = [output_weight_name(tiny_gpt2, 0)]
    every, some = (gradient_factors(tiny_gpt2, SPANS, [name], at)[name] for at in (False, True))
    places, first = [], 0
    for span in SPANS:
        places += range(first + span.start - 1, first + len(span.tokens) - 1)
        first += len(span.tokens) - 1
    torch.testing.assert_close(some.gradients, every.gradients[places])
    torch.testing.assert_close(some.inputs, every.inputs[places])


def test_many_texts_go_through_in_several_passes(tiny_gpt2, monkeypatch):
    names = names_of(tiny_gpt2)
    together = gradient_factors(tiny_gpt2, SPANS, names)
    monkeypatch.setattr(gradients, "TEXTS_PER_PASS", 2)
    parts = gradient_factors(tiny_gpt2, SPANS, names)
    for name in names:
        torch.testing.assert_close(parts[name], together[name], rtol=1e-4, atol=1e-6)


def test_the_model_stays_frozen_also_under_inference_mode(tiny_gpt2):
    names = names_of(tiny_gpt2)
    with torch.inference_mode():
        factors = gradient_factors(tiny_gpt2, SPANS, names)
    assert not any(factors[name].gradients.requires_grad for name in names)
    assert not any(p.requires_grad or p.grad is not None for p in tiny_gpt2.parameters())


def test_collapsed_model_has_no_gradient():
    lm = tiny_model("gpt2")
    lm.transformer.ln_f.weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="the loss of the requests is nan"):
        gradient_factors(lm, SPANS, names_of(lm))


def test_changed_model_is_the_one_with_changed_weights(tiny_lm):
    names, chance = names_of(tiny_lm), torch.Generator().manual_seed(0)
    changes = {
        name: (
            0.3 * torch.randn(out, 2, generator=chance),
            torch.randn(2, inputs, generator=chance),
        )
        for name in names
        for out, inputs in [oriented(tiny_lm, name).shape]
    }
    plain = naive_loss(tiny_lm, SPANS)
    with changed(tiny_lm, changes):
        found = naive_loss(tiny_lm, SPANS)
    originals = {name: tiny_lm.get_parameter(name).clone() for name in names}
    for name, (left, right) in changes.items():
        oriented(tiny_lm, name).add_(left @ right)
    expected = naive_loss(tiny_lm, SPANS)
    for name, original in originals.items():
        tiny_lm.get_parameter(name).copy_(original)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert abs(found - plain) > 0.01
    assert torch.equal(naive_loss(tiny_lm, SPANS), plain)


def test_gradients_reach_the_factors_of_a_change(tiny_llama):
    name = output_weight_name(tiny_llama, 1)
    left = torch.zeros(32, 1, requires_grad=True)
    right = torch.randn(1, 48, requires_grad=True)
    with changed(tiny_llama, {name: (left, right)}):
        naive_loss(tiny_llama, SPANS).backward()
    (gradient,) = naive_gradients(tiny_llama, SPANS, [name])
    torch.testing.assert_close(left.grad, gradient @ right.detach().T, rtol=1e-3, atol=1e-5)
    assert torch.equal(right.grad, torch.zeros_like(right))
