from types import SimpleNamespace

import pytest

from data_modules.embedded import embedded_requests
from data_modules.prompts import Prompts


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("One is\n\n  Two is \nThree is\nFour is\nFive is\n")
    return str(path)


def batches(data, place=0, places=1):
    data.setup("predict")
    data.trainer = SimpleNamespace(global_rank=place, world_size=places)
    return list(data.predict_dataloader())


def test_a_line_is_a_prompt_without_blanks_around_it(file):
    assert batches(Prompts(file)) == [["One is", "Two is", "Three is", "Four is", "Five is"]]
    assert batches(Prompts(file, limit=3, batch_size=2)) == [["One is", "Two is"], ["Three is"]]


def test_devices_take_batches_in_turn(file):
    assert batches(Prompts(file, batch_size=2), 0, 2) == [["One is", "Two is"], ["Five is"]]
    assert batches(Prompts(file, batch_size=2), 1, 2) == [["Three is", "Four is"]]


def test_without_a_file_the_prompts_are_those_of_the_embedded_facts():
    (batch,) = batches(Prompts(limit=4))
    assert batch == [request.text for request in embedded_requests()[:4]]


def test_a_file_that_holds_no_prompt_or_does_not_exist_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(ValueError, match=r"empty.txt holds no prompt; write one per line"):
        Prompts(str(tmp_path / "empty.txt")).setup("predict")
    with pytest.raises(FileNotFoundError, match=r"there is no file of prompts 'promts.txt'"):
        Prompts("promts.txt").setup("predict")


def test_a_size_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        Prompts(batch_size=0)
