import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama4.configuration_llama4 import Llama4TextConfig

from lightning_modules.language_model.experts import (
    Routed,
    count_experts,
    keys_at,
    of_plain_experts,
    require_stacked_experts,
)
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.passes import recording
from lightning_modules.language_model.self_test import self_test
from lightning_modules.language_model.shortcuts import shortcuts_of
from tests.tiny import EDITED_LAYER, tiny_model

TEXT = torch.tensor([[7, 31, 90, 12, 55, 260, 301, 18, 77, 410, 5]])
EVERYWHERE = torch.arange(TEXT.numel())


def called(lm: PreTrainedModel) -> tuple[Routed, Tensor]:
    """What the edited layer's experts received for a text, and their output."""
    with recording({"map": output_map(lm, EDITED_LAYER)}) as seen:
        lm(TEXT, use_cache=False)
    return seen["map"]


def slow_key(lm: PreTrainedModel, hidden: Tensor, expert: int) -> Tensor:
    """One expert's key ``(f,)`` at one token, by the family's own formula."""
    experts = output_map(lm, EDITED_LAYER)
    if lm.config.model_type == "gpt_oss":
        both = experts.gate_up_proj[expert].T @ hidden + experts.gate_up_proj_bias[expert]
        gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    gate, up = (experts.gate_up_proj[expert] @ hidden).chunk(2)
    return F.silu(gate) * up


def test_output_is_the_map_of_the_stacked_key(mixture):
    routed, output = called(mixture)
    assert torch.allclose(routed.output(keys_at(routed, EVERYWHERE)), output, atol=1e-5)


def test_stacked_key_holds_each_chosen_experts_key_times_its_gate(mixture):
    routed, _ = called(mixture)
    experts = count_experts(routed.module)
    right = torch.zeros(TEXT.numel(), experts, routed.keys(EVERYWHERE).shape[1] // experts)
    for token in range(TEXT.numel()):
        for expert, gate in zip(routed.chosen[token], routed.gates[token], strict=True):
            right[token, expert] = gate * slow_key(mixture, routed.hidden[token], int(expert))
    assert torch.allclose(routed.keys(EVERYWHERE), right.flatten(1), atol=1e-5)


@pytest.mark.parametrize("way", ["eager", "batched_mm", "grouped_mm"])
def test_keys_do_not_depend_on_how_transformers_computes_experts(mixture, way):
    before = called(mixture)
    usual = mixture.config._experts_implementation
    mixture.set_experts_implementation(way)
    routed, output = called(mixture)
    mixture.set_experts_implementation(usual)
    assert torch.allclose(routed.keys(EVERYWHERE), before[0].keys(EVERYWHERE), atol=1e-5)
    assert torch.allclose(output, before[1], atol=1e-5)


def test_mask_and_index_select_the_same_keys(mixture):
    routed, _ = called(mixture)
    mask = torch.zeros(TEXT.numel(), dtype=torch.bool)
    mask[[2, 5]] = True
    assert torch.equal(keys_at(routed, mask), keys_at(routed, torch.tensor([2, 5])))


def test_number_beyond_the_experts_stands_for_none(mixture):
    routed, _ = called(mixture)
    count = count_experts(routed.module)
    nobody = routed._replace(chosen=torch.full_like(routed.chosen, count))
    assert not nobody.keys(EVERYWHERE).any()


def test_context_counts_only_with_the_experts_of_the_plain_prompt():
    plain, other = torch.tensor([1.0, 2, 0, 0, 3, 4]), torch.tensor([0.0, 0, 5, 6, 7, 8])
    found = of_plain_experts(torch.stack([plain, other])[None], 3)
    assert found.tolist() == [[plain.tolist(), [0, 0, 0, 0, 7, 8]]]


def test_keys_of_a_linear_map_stay_as_they_are():
    keys = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    assert of_plain_experts(keys, 0) is keys


def test_experts_of_another_kind_are_refused():
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(Llama4TextConfig(num_hidden_layers=2))
    with pytest.raises(ValueError, match="'llama4_text' is a mixture of experts of an unknown"):
        require_stacked_experts(lm)


def test_experts_that_are_no_sum_of_gated_maps_are_refused():
    lm = tiny_model("mixtral")
    experts = output_map(lm, EDITED_LAYER)
    usual = type(experts).forward
    experts.forward = lambda *args: usual(experts, *args).square()
    with pytest.raises(ValueError, match=r"'mixtral' cannot be edited: the experts of layer 1 are"):
        self_test(lm, [EDITED_LAYER])


def test_values_of_a_mixture_are_searched_from_the_subject_on(mixture):
    self_test(mixture, [EDITED_LAYER])
    assert shortcuts_of(mixture).suffix
    assert shortcuts_of(mixture).lower
