import pytest
import torch
from torch import nn

from data_modules.records import EditRequest
from lightning_modules.functional.causal_trace import window_around
from lightning_modules.language_model.layout import blocks, output_map
from lightning_modules.language_model.tracing import (
    KINDS,
    attention_of,
    fact_of,
    subject_embeddings,
    trace,
)
from tests.tiny import FAMILIES, LAYERS, tiny_model, tiny_tokenizer

REQUEST = EditRequest(1, "The mother tongue of {} is", "Danielle Vinson", "Latin", "French")
BEGINS = REQUEST._replace(prompt="{} is the capital of", subject="Paris", target_true="France")
SAMPLES, WINDOW = 2, 2
ATTENTION = {"gpt2": "attn", "gptj": "attn", "gpt_neox": "attention"}


def first(output):
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def one_pass(lm, fact, noise, restore=(), at=0, keep=None):
    """Probability of the answer, with ``noise (s, d)`` on the subject and one token restored.

    Args:
        restore: modules and their clean outputs ``(t, d)``.
        at: the token at which they are put back.
        keep: modules whose outputs are wanted, a dictionary to fill.
    """

    def corrupt(module, args, output):
        output = output.clone()
        output[0, fact.first : fact.last + 1] += noise
        return output

    def put_back(clean):
        def hook(module, args, output):
            states = first(output).clone()
            states.view(-1, states.shape[-1])[at] = clean[at]
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    def kept(name):
        def hook(module, args, output):
            keep[name] = first(output).reshape(-1, first(output).shape[-1]).clone()

        return hook

    handles = [lm.get_input_embeddings().register_forward_hook(corrupt)]
    handles += [module.register_forward_hook(put_back(clean)) for module, clean in restore]
    handles += [module.register_forward_hook(kept(module)) for module in list(keep or ())]
    logits = lm(torch.tensor([fact.tokens])).logits[0, -1]
    for handle in handles:
        handle.remove()
    return float(logits.double().softmax(-1)[fact.answer])


def modules_of(lm, kind, layer):
    block = blocks(lm)[layer]
    path = ATTENTION.get(lm.config.model_type, "self_attn")
    found = {"hidden": block, "mlp": output_map(lm, layer), "attention": block.get_submodule(path)}
    return found[kind]


def slow_effects(lm, fact, noise, kind):
    """One restoration of one sample per pass, ``(layers, t)``."""
    all_modules = [modules_of(lm, kind, layer) for layer in range(LAYERS)]
    clean = dict.fromkeys(all_modules)
    one_pass(lm, fact, noise[0] * 0, keep=clean)
    before = sum(one_pass(lm, fact, sample) for sample in noise) / len(noise)
    effects = torch.zeros(LAYERS, len(fact.tokens), dtype=torch.float64)
    for layer in range(LAYERS):
        window = [layer] if kind == "hidden" else window_around(layer, WINDOW, LAYERS)
        restore = [(all_modules[n], clean[all_modules[n]]) for n in window]
        for at in range(len(fact.tokens)):
            found = [one_pass(lm, fact, sample, restore, at) for sample in noise]
            effects[layer, at] = sum(found) / len(found) - before
    return effects


def noise_for(lm, fact):
    generator = torch.Generator().manual_seed(0)
    shape = (SAMPLES, fact.last + 1 - fact.first, lm.get_input_embeddings().embedding_dim)
    return 0.5 * torch.randn(shape, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma2"])
def test_effects_are_those_of_one_restoration_per_pass(name, kind):
    lm = tiny_model(name)
    fact = fact_of(tiny_tokenizer(), REQUEST)
    noise = noise_for(lm, fact)
    found = trace(lm, fact, noise, WINDOW, range(LAYERS))
    slow = slow_effects(lm, fact, noise, kind)
    assert slow.abs().max() > 1e-4
    torch.testing.assert_close(found.effects[kind], slow, rtol=1e-4, atol=1e-7)
    assert found.clean == pytest.approx(one_pass(lm, fact, noise[0] * 0), rel=1e-5)
    assert (found.effects[kind][:, : fact.first] == 0).all()


def test_the_last_layers_state_at_the_last_token_brings_all_back(tiny_llama):
    fact = fact_of(tiny_tokenizer(), REQUEST)
    found = trace(tiny_llama, fact, noise_for(tiny_llama, fact), WINDOW, range(LAYERS))
    whole = found.clean - found.corrupted
    assert float(found.effects["hidden"][-1, -1]) == pytest.approx(whole, rel=1e-4)
    assert found.effects["hidden"][-1, :-1].abs().max() < 1e-8


def test_layers_left_out_do_not_change_the_others(tiny_llama):
    fact = fact_of(tiny_tokenizer(), REQUEST)
    noise = noise_for(tiny_llama, fact)
    whole = trace(tiny_llama, fact, noise, WINDOW, range(LAYERS))
    part = trace(tiny_llama, fact, noise, WINDOW, [0, 2])
    for kind in KINDS:
        torch.testing.assert_close(part.effects[kind], whole.effects[kind][[0, 2]])


@pytest.mark.parametrize("request_", [REQUEST, BEGINS])
@pytest.mark.parametrize("bos", [False, True])
def test_a_fact_holds_its_subjects_tokens_and_the_answers_first(request_, bos):
    tokenizer = tiny_tokenizer(bos)
    fact = fact_of(tokenizer, request_)
    subject = tokenizer.decode(fact.tokens[fact.first : fact.last + 1])
    assert subject.strip() == request_.subject
    assert tokenizer.decode(fact.tokens).endswith(request_.text)
    assert request_.target_true.startswith(tokenizer.decode([fact.answer]).strip())


def test_the_embeddings_are_those_of_the_subjects_tokens(tiny_gpt2):
    facts = [fact_of(tiny_tokenizer(), request) for request in (REQUEST, BEGINS)]
    rows = [
        tiny_gpt2.transformer.wte.weight[token]
        for fact in facts
        for token in fact.tokens[fact.first : fact.last + 1]
    ]
    torch.testing.assert_close(subject_embeddings(tiny_gpt2, facts), torch.stack(rows).double())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_attention_is_found(name):
    lm = tiny_model(name)
    for layer in range(LAYERS):
        assert attention_of(lm, layer) is modules_of(lm, "attention", layer)


def test_a_block_with_two_candidates_is_refused():
    lm = tiny_model("llama")
    blocks(lm)[1].cross_attn = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="layer 1 of 'llama' has 2 modules"):
        attention_of(lm, 1)


def test_mixture_of_experts_is_traced():
    lm, tokenizer = tiny_model("qwen3_moe"), tiny_tokenizer()
    fact = fact_of(tokenizer, REQUEST)
    noise = torch.randn(SAMPLES, fact.last - fact.first + 1, 32)
    found = trace(lm, fact, noise, WINDOW, range(LAYERS))
    assert all(effect.isfinite().all() for effect in found.effects.values())
    assert found.effects["mlp"].any()
