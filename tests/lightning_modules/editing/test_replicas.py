import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_modules.editing.replicas import (
    Place,
    Replicas,
    checksum,
    gathered,
    in_turn,
)
from tests.processes import on_both

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def test_work_shared_by_two_is_whole_for_both(tmp_path):
    def work(place):
        pieces = {n: torch.full((2,), float(n)) for n in range(5) if n % 2 == place.rank}
        joined = place.joined(pieces, CPU)
        total = place.summed(torch.tensor([1.0, place.rank], dtype=torch.float64), CPU)
        turns = in_turn([f"{place.rank}{turn}" for turn in range(2 - place.rank)])
        same = place.require_same({"w": torch.ones(3)})
        return {n: piece.tolist() for n, piece in joined.items()}, total.tolist(), turns, same

    expected = ({n: [n, n] for n in range(5)}, [2.0, 1.0], ["00", "10", "01"], None)
    assert on_both(work, tmp_path) == [expected, expected]


def test_both_notice_that_one_of_them_drifts(tmp_path):
    def work(place):
        weight = torch.ones(1000)
        weight[7] += place.rank * 2e-7
        place.require_same({"fine": torch.zeros(3), "w.weight": weight})

    first, second = on_both(work, tmp_path)
    assert first == second
    assert first.startswith("devices 0 and 1 hold different values of w.weight after the same edit")


def test_alone_there_is_nothing_to_share():
    place, pieces = Place(), {0: torch.ones(2)}
    assert place.joined(pieces, CPU) is pieces
    assert place.summed(pieces[0], CPU) is pieces[0]
    assert gathered("own") == ["own"]
    assert in_turn([1, 2]) == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_checksum_shows_the_smallest_change_of_any_element(dtype):
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    for place in ((0, 0), (19, 29), (7, 3)):
        changed = weight.clone()
        up = torch.tensor(torch.inf, dtype=dtype)
        changed[place] = torch.nextafter(weight[place], up)
        assert checksum(changed) != checksum(weight)
    assert checksum(weight.T.contiguous().T) == checksum(weight)


def test_a_loader_that_lightning_has_shared_out_is_refused():
    strategy = Replicas()
    plain = DataLoader([1, 2])
    assert strategy.process_dataloader(plain) is plain
    shared = DataLoader([1, 2], sampler=DistributedSampler([1, 2], num_replicas=2, rank=0))
    with pytest.raises(ValueError, match=r"needs Trainer.use_distributed_sampler=False"):
        strategy.process_dataloader(shared)


def test_the_strategy_is_known_by_its_name():
    trainer = L.Trainer(accelerator="cpu", devices=1, strategy="replicas", logger=False)
    assert isinstance(trainer.strategy, Replicas)
