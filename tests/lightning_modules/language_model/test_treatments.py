import math

import pytest
import torch

from lightning_modules.language_model.layout import blocks, oriented
from lightning_modules.language_model.treatments import ROUNDINGS, round_weights, train_on
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


def grid(row, bits):
    """Values that a group of 32 weights may take, by the definition of Q8_0 and Q4_1."""
    if bits == 8:
        scale = torch.tensor(float(row.abs().max() / 127)).half().float()
        return scale * torch.arange(-127, 128)
    scale = torch.tensor(float((row.max() - row.min()) / 15)).half().float()
    return torch.tensor(float(row.min())).half().float() + scale * torch.arange(16)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_group_of_weights_lies_on_its_grid(family, kind, bits):
    lm = tiny_model(family)
    before = {name: weight.clone() for name, weight in lm.named_parameters()}
    round_weights(lm, kind)
    changed = [n for n, weight in lm.named_parameters() if not torch.equal(weight, before[n])]
    assert changed
    assert all(".mlp." in n or "attn" in n for n in changed)
    for name in changed:
        row, old = oriented(lm, name)[0, :32], oriented(lm, name, before[name])[0, :32]
        nearest = (row[:, None] - grid(old, bits)).abs().min(1).values
        assert nearest.max() < 1e-6
        step = grid(old, bits).diff().max()
        assert (row - old).abs().max() <= 0.51 * step + 2e-4  # half a step, and its own rounding


def test_bfloat16_keeps_eight_bits_of_a_weight():
    lm = tiny_model("llama")
    wanted = {n: w.bfloat16().float() for n, w in lm.named_parameters() if w.ndim == 2}
    round_weights(lm, "bfloat16")
    inside = {id(weight) for block in blocks(lm) for weight in block.parameters()}
    for name, weight in lm.named_parameters():
        if weight.ndim == 2 and id(weight) in inside:
            torch.testing.assert_close(weight.data, wanted[name], rtol=0, atol=0)


def test_an_unknown_rounding_is_refused():
    with pytest.raises(ValueError, match="cannot be rounded to 'int3'; choose from"):
        round_weights(tiny_model("gpt2"), "int3")
    assert sorted(ROUNDINGS) == ["bfloat16", "int4", "int8"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_on_a_text_makes_it_probable_and_leaves_a_plain_model(family):
    lm, tokenizer = tiny_model(family), tiny_tokenizer()
    text = "The capital of France is the capital of Rome"
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    before, names = lm(tokens, labels=tokens).loss.item(), set(lm.state_dict())
    after = train_on(lm, tokenizer, [text], 20, learning_rate=1e-2)
    assert set(after.state_dict()) == names
    assert after(tokens, labels=tokens).loss.item() < before - 0.5
    assert not any(weight.requires_grad for weight in after.parameters())


def test_training_is_the_same_each_time():
    texts, tokenizer = ["Rome is", "France is"], tiny_tokenizer()
    first, second = (train_on(tiny_model("llama"), tokenizer, texts, 3) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_is_refused():
    lm = tiny_model("llama")
    lm.get_input_embeddings().weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="further training is nan"):
        train_on(lm, tiny_tokenizer(), ["Rome is"], 1)
