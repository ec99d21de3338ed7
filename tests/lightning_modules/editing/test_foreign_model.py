"""A real model of another family, made by others: Karpathy's stories260K, a Llama."""

import math
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_modules.records import EditRequest
from lightning_modules.language_model.loading import load
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.tokens import target_span, text_span
from lightning_modules.methods.rome import ROME
from tests.tiny import metaspace_tokenizer

STORY = "Once upon a time, there was a little girl named Lily."
REQUEST = EditRequest(0, "{} went to the", "Tom", "moon", "park")


def read_model(file: Path) -> LlamaForCausalLM:
    """The model of a llama2.c file: seven numbers, then all layers' weights kind by kind."""
    content = file.read_bytes()
    dim, inner, layers, heads, kv_heads, vocabulary, length = struct.unpack_from("7i", content)
    weights = torch.frombuffer(bytearray(content[28:]), dtype=torch.float32)
    kv_dim, at = dim * kv_heads // heads, 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        at += math.prod(shape)
        return weights[at - math.prod(shape) : at].view(shape)

    def halves(matrices: Tensor, count: int) -> Tensor:
        """Rotary pairs lie side by side there, in two halves of each head here."""
        pairs = matrices.view(layers, count, -1, 2, dim)
        return pairs.transpose(2, 3).reshape(matrices.shape)

    state = {"model.embed_tokens.weight": take(vocabulary, dim)}
    stacked = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": halves(take(layers, dim, dim), heads),
        "self_attn.k_proj": halves(take(layers, kv_dim, dim), kv_heads),
        "self_attn.v_proj": take(layers, kv_dim, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, inner, dim),
        "mlp.down_proj": take(layers, dim, inner),
        "mlp.up_proj": take(layers, inner, dim),
    }
    for name, matrices in stacked.items():
        state |= {f"model.layers.{n}.{name}.weight": matrix for n, matrix in enumerate(matrices)}
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    assert at + length * dim // heads == len(weights)  # tables of cosines and sines remain
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    lm = LlamaForCausalLM(config)
    lm.load_state_dict(state)
    return lm


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a llama2.c file; a merge's rank is the place of what it makes."""
    content, at, pieces = file.read_bytes(), 4, []
    while at < len(content):
        _, size = struct.unpack_from("fi", content, at)
        pieces.append(content[at + 8 : at + 8 + size].decode().replace(" ", "▁"))
        at += 8 + size
    learned = pieces[259:]  # behind <unk>, <s>, </s> and the bytes
    known = set(learned)
    splits = ((p[:n], p[n:]) for p in learned for n in range(1, len(p)))
    return metaspace_tokenizer(learned, [pair for pair in splits if known.issuperset(pair)])


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    source, target = shared_data / "models/stories260K", tmp_path_factory.mktemp("stories")
    if not source.is_dir():
        pytest.skip(f"needs the model stories260K, which is absent here: {source}")
    read_model(source / "stories260K.bin").save_pretrained(target)
    read_tokenizer(source / "tok512.bin").save_pretrained(target)
    return str(target)


def test_model_speaks(folder):
    lm, tokenizer = load(folder)
    spans = [text_span(tokenizer, STORY), target_span(tokenizer, STORY[:-6], "Lily")]
    scores = score(lm, spans)
    assert float(scores.nll[0]) < 0.5 < math.log(512)
    assert scores.greedy[1] == scores.length[1]


def test_text_survives_its_tokens(folder):
    _, tokenizer = load(folder)
    for text in (STORY, "Zoë said: 東京 🙂!\n", "  two  blanks"):
        tokens = tokenizer(text)["input_ids"]
        assert tokens[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in tokens
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert len(tokenizer(STORY, add_special_tokens=False)["input_ids"]) < len(STORY) / 2


def test_model_takes_an_edit(folder):
    editor = ROME(1, lm=folder, second_moment="identity", contexts={5: 2, 8: 2})
    editor.configure_model()
    editor.prepare()
    story = text_span(editor.tokenizer, STORY)
    before, nll_before = editor.judge(REQUEST), float(editor.score([story]).nll[0])
    (update,) = editor.edit([REQUEST])
    editor.apply_update(update)
    after, nll_after = editor.judge(REQUEST), float(editor.score([story]).nll[0])
    assert before["efficacy"] == 0
    assert after["efficacy"] == after["efficacy_token_accuracy"] == 1
    assert after["efficacy_magnitude"] > 0.1 > -0.5 > before["efficacy_magnitude"]
    assert nll_after < nll_before + 0.1  # and still speaks
