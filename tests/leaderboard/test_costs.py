from copy import deepcopy

import pytest
import torch

from docs.leaderboard.costs import LiveBytes, costs, products
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.in_context import InContext
from lightning_modules.methods.no_edit import NoEdit
from tests.batches import REQUESTS, TOKENIZER

SIX = [[REQUESTS[n % 4]._replace(case_id=n)] for n in range(6)]


def ready(editor, lm):
    editor.attach(deepcopy(lm), TOKENIZER)
    return costs(editor, SIX)


def test_the_peak_is_what_lives_at_once():
    with LiveBytes() as live:
        one = torch.zeros(1000)  # 4 kB
        view = one.view(10, 100)
        two = one + 1
        del one, view
        three = two * 2
        del two, three
        torch.zeros(500)
    assert live.peak == 2 * 4000


def test_a_tensor_from_before_does_not_count():
    old = torch.zeros(10_000)
    with LiveBytes() as live:
        old.add_(1)
        old[:10].clone()
    assert live.peak == 40


def test_products_count_two_operations_for_each_factor():
    assert products((3, 5, 7), (11, 7)) == 2 * 3 * 5 * 7 * 11


def test_fine_tuning_costs_products_and_keeps_its_dense_update(tiny_gpt2):
    editor = FineTuning(lm="tiny", layers=[1], steps=2, radius=None)
    found = ready(editor, tiny_gpt2)
    assert found["kept"] == 32 * 48 * 4
    assert found["operations"] > 10_000
    assert found["memory"] > 32 * 48 * 4
    assert found["seconds"] > 0


def test_no_edit_keeps_nothing_and_a_context_keeps_its_fact(tiny_gpt2):
    assert ready(NoEdit(lm="tiny"), tiny_gpt2)["kept"] == 0
    found = ready(InContext(lm="tiny"), tiny_gpt2)
    assert 20 < found["kept"] < 200
    assert found["operations"] == pytest.approx(0)


def test_a_weight_packed_for_the_kernel_counts_where_it_is_made():
    weight = torch.ones(64, 32)
    with LiveBytes() as live:
        packed = weight.to_mkldnn()
        (packed + packed).to_dense()
    assert live.peak == 3 * weight.nbytes
