import pytest
import torch
from torch import nn

from lightning_modules.language_model.inspection import find_layout, tolerance
from lightning_modules.language_model.layout import LAYOUTS, layout_of, values_add_up
from tests.families import tiny_of
from tests.lightning_modules.language_model.test_passes import hooks
from tests.tiny import tiny_config, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of configs that are shrunk beyond their sense


def test_inspection_finds_every_row_of_the_table(tiny_lm):
    assert find_layout(tiny_lm) == LAYOUTS[tiny_lm.config.model_type]


def test_norm_behind_the_residual_is_found():
    lm = type(tiny_model("opt"))(tiny_config("opt", do_layer_norm_before=False)).eval()
    assert find_layout(lm) == layout_of(lm)
    assert layout_of(lm).norm_behind == "final_layer_norm"


def test_factor_of_the_residual_is_measured():
    lm = tiny_of("granite")
    assert layout_of(lm).scale == pytest.approx(0.3, rel=1e-6)
    assert not values_add_up(lm)
    assert values_add_up(tiny_of("bloom"))


def test_factor_is_measured_in_bfloat16_too():
    lm = tiny_of("granite").to(torch.bfloat16)
    assert layout_of(lm).scale == pytest.approx(0.3, rel=0.02)


def test_layout_is_found_once():
    lm = tiny_of("bloom")
    found = layout_of(lm)
    lm.forward = None
    assert layout_of(lm) is found


def test_inspection_leaves_nothing_behind(tiny_gpt2):
    before, state = list(hooks(tiny_gpt2)), tiny_gpt2.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    find_layout(tiny_gpt2)
    assert list(hooks(tiny_gpt2)) == before
    assert all(torch.equal(value, kept[name]) for name, value in state.items())


def test_blocks_that_differ_are_refused():
    lm = tiny_model("llama")
    block = lm.model.layers[1]
    block.other = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 32))
    block.mlp.forward = block.other.forward
    with pytest.raises(ValueError, match=r"its blocks differ: mlp.down_proj or other.1"):
        find_layout(lm)


def test_shared_map_is_refused():
    lm = tiny_model("llama")
    lm.model.layers[2].mlp.down_proj = lm.model.layers[1].mlp.down_proj
    with pytest.raises(ValueError, match=r"'llama' cannot be edited as it is: .*LAYOUTS"):
        find_layout(lm)


def test_tolerance_grows_with_the_type():
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    assert [f"{tolerance(kind):.1g}" for kind in kinds] == ["2e-07", "0.0007", "0.06", "0.2"]
