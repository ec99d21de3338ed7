import torch

from lightning_modules.methods.past_keys import PastKeys

ONE, TWO = torch.randn(4, 1), torch.randn(4, 2)


def test_keys_come_back_in_order_and_by_edit():
    past = PastKeys({}, layer=3)
    assert (past.keys, past.batches()) == (None, [])
    for keys in (TWO, ONE):
        past.append(keys)
    assert torch.equal(past.keys, torch.cat([TWO, ONE], 1))
    assert [batch.tolist() for batch in past.batches()] == [TWO.tolist(), ONE.tolist()]
    assert [batch.tolist() for batch in past.batches(skipped=2)] == [ONE.tolist()]


def test_an_older_history_does_not_see_later_keys():
    history = {}
    PastKeys(history, 0).append(ONE)
    before = dict(history)
    PastKeys(history, 0).append(TWO)
    assert PastKeys(before, 0).keys.shape == (4, 1)


def test_layers_have_keys_of_their_own():
    history = {}
    PastKeys(history, 0).append(ONE)
    assert PastKeys(history, 1).keys is None
