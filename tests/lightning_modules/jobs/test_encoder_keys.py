import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

from callbacks.studies.key_geometry import KeyGeometry
from data_modules.records import EditRequest
from lightning_modules.jobs.encoder_keys import EncoderKeys
from tests.callbacks.runs import REQUESTS, data_of, trainer_in
from tests.tiny import VOCABULARY, save_tiny, tiny_metaspace_tokenizer

LAYER = 1
LATE = EditRequest(3, "The mother tongue of {} is", "Victor Hugo", "German", "French")
BEGINS = EditRequest(4, "{} is the capital of", "Paris", "Peru", "France")


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def folder(request, tmp_path_factory):
    """A random T5 whose tokenizer puts ``</s>`` behind every text, as T5's does."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = tiny_metaspace_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=4,
        feed_forward_proj=request.param,
        initializer_factor=5.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def module(folder):
    """The encoder, loaded."""
    module = EncoderKeys(str(folder), LAYER)
    module.configure_model()
    return module


def slow_keys(folder, text):
    """Keys ``(t, f)`` of one text, and its tokens."""
    lm = T5EncoderModel.from_pretrained(folder).eval()
    seen = []
    wo = lm.encoder.block[LAYER].layer[1].DenseReluDense.wo
    wo.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    module = EncoderKeys(str(folder), LAYER)
    module.configure_model()
    tokens = module.tokenizer(text)["input_ids"]
    with torch.no_grad():
        lm(torch.tensor([tokens]))
    return seen[0], module.tokenizer.convert_ids_to_tokens(tokens)


def test_keys_are_those_at_the_subjects_last_and_at_the_first_token(module, folder):
    for one in module.keys_of([LATE, BEGINS]):
        keys, tokens = slow_keys(folder, one.request.text)
        assert tokens[-1] == "</s>"
        ends = [  # the subject's last token: the text up to it is the text up to the subject's end
            "".join(tokens[: n + 1]).replace("▁", " ").strip() for n in range(len(tokens) - 1)
        ]
        until = one.request.prompt.partition("{}")[0] + one.request.subject
        last = ends.index(until)
        torch.testing.assert_close(one.keys["plain"], keys[last], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.keys["first"], keys[0], rtol=1e-5, atol=1e-5)
        assert one.begins == (last == 0)


def test_a_first_token_sees_what_comes_behind_it(module):
    same = [BEGINS, BEGINS._replace(prompt="{} plays the violin and")]
    first, other = (one.keys["first"] for one in module.keys_of(same))
    assert not torch.allclose(first, other, atol=1e-3)


def test_geometry_of_an_encoder_is_drawn(folder, tmp_path):
    module = EncoderKeys(str(folder), LAYER)
    trainer_in(tmp_path, [KeyGeometry("first_token")]).predict(module, data_of())
    kept = load_file(tmp_path / "keys.safetensors")
    assert kept["plain"].shape == kept["first"].shape == (len(REQUESTS), 48)
    figures = json.loads((tmp_path / "key_geometry.json").read_text())
    assert figures["lm"]["part"] == "encoder"
    assert (tmp_path / "keys_pca.png").exists()


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_the_encoder_does_not_have(folder, layer):
    with pytest.raises(ValueError, match=rf"layer must be in \[0, 3\).*got {layer}"):
        EncoderKeys(str(folder), layer).configure_model()


def test_a_decoder_is_refused(tmp_path):
    save_tiny(tmp_path, "gpt2")
    with pytest.raises(ValueError, match="is a 'gpt2', whose encoder is not known"):
        EncoderKeys(str(tmp_path), 0).configure_model()


def test_an_unknown_model_is_told_in_one_sentence():
    with pytest.raises(FileNotFoundError, match="no encoder 'no/such-model'"):
        EncoderKeys("no/such-model", 0).configure_model()


def test_an_empty_batch_which_evens_out_devices_has_no_keys(module):
    assert module.predict_step([], 0) == []
    assert module.keyed([]) == []
