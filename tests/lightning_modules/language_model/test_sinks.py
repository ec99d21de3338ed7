import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_modules.language_model.hooks import first
from lightning_modules.language_model.layout import blocks, output_map
from lightning_modules.language_model.passes import recording
from lightning_modules.language_model.sinks import attention_on_first, text_states
from tests.tiny import LAYERS, tiny_tokenizer

TEXTS = ["The capital of France is Paris, and that of Italy is Rome.", "He plays the violin.", "It"]
ROWS = tiny_tokenizer()(TEXTS)["input_ids"]


@torch.no_grad()
def alone(lm, tokens, layer):
    """Hidden states, keys and values of one text without padding, ``(t, …)`` each."""
    modules = {"block": blocks(lm)[layer], "map": output_map(lm, layer)}
    with recording(modules) as seen:
        lm(torch.tensor([tokens]))
    parts = first(seen["block"][1]), seen["map"][0], seen["map"][1]
    return [part.reshape(len(tokens), -1) for part in parts]


@pytest.mark.parametrize("layer", range(LAYERS))
def test_states_are_those_of_texts_one_by_one(tiny_lm, layer):
    states = text_states(tiny_lm, ROWS)
    parts = [alone(tiny_lm, tokens, layer) for tokens in ROWS]
    hidden, keys, values = (torch.cat(part) for part in zip(*parts, strict=True))
    assert states.position.tolist() == [at for tokens in ROWS for at in range(len(tokens))]
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(states.keys[layer], keys, **close)
    torch.testing.assert_close(states.hidden[layer], hidden.norm(dim=1), **close)
    torch.testing.assert_close(states.value[layer], values.norm(dim=1), **close)


def test_norms_are_means_by_position_and_from_the_fourth_on_together(tiny_gpt2):
    states = text_states(tiny_gpt2, ROWS)
    norms = states.norms(1)
    for kind, found in (("hidden", states.hidden[1]), ("value", states.value[1])):
        for at in range(4):
            own = [float(n) for n, p in zip(found, states.position, strict=True) if p == at]
            assert norms[kind][at] == pytest.approx(sum(own) / len(own), rel=1e-5)
        rest = [float(n) for n, p in zip(found, states.position, strict=True) if p >= 4]
        assert norms[kind][4] == pytest.approx(sum(rest) / len(rest), rel=1e-5)


def test_positions_that_no_text_has_are_nan(tiny_gpt2):
    norms = text_states(tiny_gpt2, [[5, 6]]).norms(0)["key"]
    assert [math.isnan(norm) for norm in norms] == [False, False, True, True, True]


def test_attention_on_the_first_token_is_what_eager_attention_returns(tiny_lm, tmp_path):
    shares = attention_on_first(tiny_lm, ROWS)
    tiny_lm.save_pretrained(tmp_path)
    eager = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    for layer, share in enumerate(shares):
        seen = []
        for tokens in ROWS:
            with torch.no_grad():
                weights = eager(torch.tensor([tokens]), output_attentions=True).attentions[layer]
            for query in range(1, len(tokens)):
                seen.append(float(weights[0, :, query, 0].sum()) / weights.shape[1])
        assert share == pytest.approx(sum(seen) / len(seen), rel=1e-3, abs=1e-5)


def test_the_model_keeps_its_own_attention(tiny_llama):
    before = tiny_llama.config.to_dict()
    logits = tiny_llama(torch.tensor(ROWS[:1])).logits
    attention_on_first(tiny_llama, ROWS)
    assert tiny_llama.config.to_dict() == before
    assert torch.equal(tiny_llama(torch.tensor(ROWS[:1])).logits, logits)
    assert not tiny_llama(torch.tensor(ROWS[:1])).attentions


@pytest.mark.parametrize("returned", [None, (), (None, None, None)])
def test_a_family_without_attention_weights_has_no_shares(tiny_gpt2, monkeypatch, returned):
    from lightning_modules.language_model import sinks

    monkeypatch.setattr(sinks, "_weights", lambda lm, batch: returned)
    assert attention_on_first(tiny_gpt2, ROWS) is None
