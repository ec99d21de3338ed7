import pytest

from lightning_modules.editing import hypernetwork
from lightning_modules.editing.hypernetwork import trained_layers


@pytest.fixture
def said(monkeypatch):
    """What the user is told."""
    sentences = []
    monkeypatch.setattr(hypernetwork, "rank_zero_info", sentences.append)
    return sentences


@pytest.mark.parametrize(("name", "layers"), [("embedded", [1, 2, 3]), ("org/lm", [27, 28, 29])])
def test_layers_that_are_not_given_fit_the_model_and_are_named(name, layers, said):
    assert trained_layers(None, name, 30) == layers
    assert said == [f"MEND is trained for layers {layers} of {name!r}; or give --model.layers"]


def test_given_layers_are_taken_in_silence(said):
    assert trained_layers([4], "org/lm", 30) == [4]
    assert said == []
