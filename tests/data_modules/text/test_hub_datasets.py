import pytest
from huggingface_hub.errors import HfHubHTTPError

from data_modules.forms.readers import read_requests
from data_modules.text import hub_datasets
from data_modules.text.hub_datasets import look_up_dataset


@pytest.fixture
def asked(monkeypatch):
    """Names that a hub which never answers was asked for."""
    names = []

    def dataset_info(self, name, timeout):
        names.append(name)
        raise TimeoutError

    monkeypatch.setattr(hub_datasets.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(hub_datasets, "is_offline_mode", lambda: False)
    return names


@pytest.mark.parametrize(
    "name",
    ["./facts", "~/facts", "/no/facts", "data/my/facts", "facts.JSON", "a/facts.csv", "a.gz"],
)
def test_what_can_only_be_a_path_is_refused_without_a_question(name, asked):
    with pytest.raises(FileNotFoundError, match=f"'{name}' is neither a file or folder here"):
        read_requests(name)
    assert asked == []


def test_a_hub_that_does_not_answer_is_asked_once(asked):
    with pytest.raises(FileNotFoundError, match=r"'azhx/cf' is neither .* \(ConnectionError\)"):
        read_requests("azhx/cf")
    assert asked == ["azhx/cf"]


def test_what_the_hub_answers_is_left_to_the_reader(asked, monkeypatch):
    def dataset_info(self, name, timeout):
        raise HfHubHTTPError.__new__(HfHubHTTPError)

    monkeypatch.setattr(hub_datasets.HfApi, "dataset_info", dataset_info)
    look_up_dataset("nobody/nothing")
