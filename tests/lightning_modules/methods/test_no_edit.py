from copy import deepcopy

import torch

from lightning_modules.methods.no_edit import NoEdit
from tests.batches import REQUESTS, TOKENIZER


def test_nothing_changes_and_the_edit_counts_as_made(tiny_lm):
    editor = NoEdit(lm="tiny")
    editor.attach(deepcopy(tiny_lm), TOKENIZER)
    before = editor.judge(REQUESTS[0])
    for request in REQUESTS:
        editor.make_edit([request])
    assert editor.record["status"] == "applied"
    assert editor.record["update_norm"] == 0
    assert editor.edited_cases == [7, 8, 9, 10]
    assert editor.judge(REQUESTS[0]) == before
    for name, weight in editor.lm.named_parameters():
        assert torch.equal(weight, tiny_lm.get_parameter(name))
