import pytest
import torch

from lightning_modules.language_model.reach import of_texts, positions_of, windows
from lightning_modules.language_model.scoring import Scores
from lightning_modules.language_model.tokens import Span
from tests.tiny import tiny_config


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 10, 13])
def test_windows_predict_every_token_but_the_first_once(count):
    pieces = windows(Span(list(range(count)), 1), 5)
    assert all(len(piece.tokens) <= 5 for piece in pieces)
    predicted = [token for piece in pieces for token in piece.tokens[1:]]
    assert predicted == list(range(1, count))


def test_a_text_that_fits_is_left_as_it_is():
    span = Span([1, 2, 3], 1)
    assert windows(span, 3) == windows(span, None) == [span]


def test_pieces_are_summed_text_by_text_and_copy_by_copy():
    part = torch.tensor([1.0, 2, 4, 10, 20, 40])
    guesses = torch.arange(6)
    found = of_texts(Scores(part, part.long(), part.long(), guesses), [2, 1], copies=2)
    assert found.log_prob.tolist() == [3, 4, 30, 40]
    assert found.length.tolist() == found.greedy.tolist() == [3, 4, 30, 40]
    assert found.guesses is guesses


def test_every_family_tells_its_positions(family):
    assert positions_of(tiny_config(family)) == 128
