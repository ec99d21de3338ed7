import json

import pytest

from data_modules.embedded import embedded_requests
from data_modules.meta_training import HeldOutDataModule, MetaTrainingDataModule, held_out


@pytest.fixture
def file(tmp_path):
    cases = [
        {"prompt": f"Subject {n // 2} is", "subject": f"Subject {n // 2}", "target_new": str(n)}
        for n in range(60)
    ]
    (tmp_path / "requests.json").write_text(json.dumps(cases))
    return str(tmp_path / "requests.json")


def test_about_a_fifth_of_the_embedded_requests_is_held_out():
    share = sum(map(held_out, embedded_requests())) / len(embedded_requests())
    assert 0.17 < share < 0.23


def test_no_subject_is_both_trained_and_validated_on(file):
    for path in (None, file):
        data = MetaTrainingDataModule(path)
        data.setup("fit")
        subjects = [{r.subject for r in part} for part in (data.train, data.validation)]
        assert subjects[0]
        assert subjects[1]
        assert not subjects[0] & subjects[1]


def test_an_editing_run_edits_what_training_neither_edits_nor_validates_on():
    training, editing = MetaTrainingDataModule(), HeldOutDataModule()
    for data in (training, editing):
        data.setup("fit")
    parts = [editing.requests, training.train, training.validation]
    subjects = [{r.subject for r in part} for part in parts]
    assert not subjects[0] & (subjects[1] | subjects[2])
    assert sum(map(len, parts)) == len(embedded_requests())
    assert 0.05 < len(training.validation) / len(embedded_requests()) < 0.12
    assert editing.watched


def test_limit_and_seed_select_among_the_held_out():
    data = HeldOutDataModule(limit=7, seed=3)
    data.setup("fit")
    data.setup("validate")
    assert len(data.requests) == data.limit == 7
    assert all(map(held_out, data.requests))


def test_a_validation_file_leaves_all_requests_to_training(file):
    data = MetaTrainingDataModule(file, validation_path=file, validation_limit=4, limit=50)
    data.setup("fit")
    assert (len(data.train), len(data.validation)) == (50, 4)


def test_batches_are_lists_of_requests_in_new_order_each_epoch(file):
    data = MetaTrainingDataModule(file, batch_size=7)
    data.setup("fit")
    loader = data.train_dataloader()

    def epoch(number: int) -> list:
        loader.sampler.set_epoch(number)
        return [r for batch in loader for r in batch]

    assert epoch(0) != epoch(1)
    assert sorted(epoch(0)) == sorted(epoch(1)) == sorted(data.train)
    assert {len(batch) for batch in loader} <= {7, len(data.train) % 7}
    assert [r for batch in data.val_dataloader() for r in batch] == data.validation


def test_the_seed_and_the_epoch_decide_the_order(file):
    orders = []
    for seed, number in [(0, 3), (0, 3), (1, 3)]:
        data = MetaTrainingDataModule(file, seed=seed)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        orders.append(list(loader))
    assert orders[0] == orders[1] != orders[2]


def test_too_few_subjects_are_refused(tmp_path):
    (tmp_path / "one.json").write_text('[{"prompt": "A is", "subject": "A", "target_new": "B"}]')
    with pytest.raises(ValueError, match=r"one.json: too few subjects.*validation_path"):
        MetaTrainingDataModule(str(tmp_path / "one.json")).setup("fit")


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        MetaTrainingDataModule(batch_size=0)
