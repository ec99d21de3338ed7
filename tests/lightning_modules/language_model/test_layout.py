import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, PreTrainedModel, T5Config
from transformers.pytorch_utils import Conv1D

from lightning_modules.language_model.layout import (
    LAYOUTS,
    blocks,
    experts_in,
    layer_of,
    layout_of,
    names_experts,
    oriented,
    output_map,
    output_weight_name,
    parameter_of,
    require_decoder,
)
from tests.tiny import EDITED_LAYER, FAMILIES, LAYERS, tiny_config, tiny_model

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "vocab_size": 420,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 1,
}


def affine(lm: PreTrainedModel, layer: int, keys: torch.Tensor) -> torch.Tensor:
    """What the map does, from its weight seen as (out, in)."""
    bias = getattr(output_map(lm, layer), "bias", None)
    values = keys @ oriented(lm, output_weight_name(lm, layer)).T
    return values if bias is None else values + bias


def test_every_layout_has_a_tiny_model():
    assert set(FAMILIES) == set(LAYOUTS)


def test_blocks_are_all_layers(tiny_lm):
    assert len(blocks(tiny_lm)) == LAYERS


@pytest.mark.parametrize("layer", range(LAYERS))
def test_output_map_turns_keys_into_what_the_mlp_adds(tiny_lm, layer):
    seen = []
    module = output_map(tiny_lm, layer)
    handle = module.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    tiny_lm(torch.arange(1, 7)[None])
    handle.remove()
    ((keys, values),) = seen
    assert keys.reshape(6, -1).shape == (6, 48)
    assert values.reshape(6, -1).shape == (6, 32)


def test_block_returns_what_its_layout_says(tiny_lm):
    returned = []
    handle = blocks(tiny_lm)[0].register_forward_hook(lambda *call: returned.append(call[-1]))
    tiny_lm(torch.arange(1, 7)[None])
    handle.remove()
    assert isinstance(returned[0], tuple) == layout_of(tiny_lm).returns_tuple


def test_weight_is_seen_as_out_by_in(tiny_lm):
    assert oriented(tiny_lm, output_weight_name(tiny_lm, 1)).shape == (32, 48)
    keys = torch.randn(5, 48)
    torch.testing.assert_close(affine(tiny_lm, 1, keys), output_map(tiny_lm, 1)(keys))


def test_square_conv1d_is_still_seen_as_out_by_in():
    lm = AutoModelForCausalLM.from_config(tiny_config("gpt2", n_inner=32)).requires_grad_(False)
    assert isinstance(output_map(lm, 0), Conv1D)
    keys = torch.randn(5, 32)
    torch.testing.assert_close(affine(lm, 0, keys), output_map(lm, 0)(keys))


def test_writing_through_the_view_changes_the_map(tiny_lm):
    weight = oriented(tiny_lm, output_weight_name(tiny_lm, 1))
    original = weight.clone()
    keys, left, right = torch.randn(5, 48), torch.randn(32), torch.randn(48)
    before = output_map(tiny_lm, 1)(keys)
    weight += torch.outer(left, right)
    after = output_map(tiny_lm, 1)(keys)
    weight.copy_(original)
    torch.testing.assert_close(after, before + torch.outer(keys @ right, left), atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_layer_that_does_not_exist_is_refused(tiny_lm, layer):
    with pytest.raises(ValueError, match=rf"layer must be in \[0, {LAYERS}\).* got {layer}"):
        output_map(tiny_lm, layer)


def test_encoder_decoder_is_refused():
    with pytest.raises(ValueError, match="'t5' is an encoder-decoder"):
        require_decoder(T5Config())


def test_quantised_model_is_refused():
    config = tiny_config("llama")
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(ValueError, match=r"quantised.*load the unquantised checkpoint"):
        require_decoder(config)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "deepseek_v3", "olmoe"])
def test_config_of_a_mixture_names_its_experts(family):
    assert names_experts(AutoConfig.for_model(family))


def test_mixture_of_one_expert_is_still_a_mixture():
    lm = AutoModelForCausalLM.from_config(MixtralConfig(num_local_experts=1, **SMALL))
    assert not names_experts(lm.config)
    assert output_weight_name(lm, 0) == "model.layers.0.mlp.experts.down_proj"


def test_dense_model_that_names_a_number_of_experts_is_no_mixture():
    assert not names_experts(AutoConfig.for_model("doge"))
    assert names_experts(AutoConfig.for_model("doge", is_moe=True))


def test_slice_of_an_expert_is_a_weight(mixture):
    name = output_weight_name(mixture, EDITED_LAYER)
    experts = mixture.get_parameter(name)
    assert parameter_of(f"{name}[2]") == name
    assert experts_in(mixture, name) == len(experts)
    assert experts_in(mixture, f"{name}[2]") == 0
    assert layer_of(mixture, f"{name}[2]") == EDITED_LAYER
    seen = oriented(mixture, f"{name}[2]")
    assert seen.shape[0] == 32
    assert seen.data_ptr() == experts[2].data_ptr()  # a change of it changes the parameter


def test_first_layers_without_experts_have_a_map():
    lm = tiny_model("deepseek_v3")
    assert output_weight_name(lm, 0) == "model.layers.0.mlp.down_proj.weight"
    assert output_weight_name(lm, 1) == "model.layers.1.mlp.experts.down_proj"
