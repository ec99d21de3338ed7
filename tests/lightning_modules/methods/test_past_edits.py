import pytest
import torch

from lightning_modules.methods.past_edits import WIDTH, PastEdits, square

ROWS = 40


def draw(columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, columns, generator=generator, dtype=torch.float64)


def appended(*columns):
    """A history after downdates of so many columns, and these side by side."""
    history, made = {}, [draw(n, seed) for seed, n in enumerate(columns)]
    for downdate in made:
        PastEdits(history, 3).append(downdate)
    return history, torch.cat(made, 1)


def test_before_the_first_edit_there_is_nothing():
    assert PastEdits({}, 3).parts() == []
    assert PastEdits(appended(1)[0], 2).parts() == []


def test_narrow_parts_are_joined_in_their_order():
    history, together = appended(*[1] * (2 * WIDTH + 3))
    widths = [part.shape[1] for part in PastEdits(history, 3).parts()]
    assert widths == [WIDTH, WIDTH, 1, 1, 1]
    assert torch.equal(torch.cat(PastEdits(history, 3).parts(), 1), together)


def test_wide_parts_stay_as_they_are():
    history, together = appended(WIDTH, 2, WIDTH + 1)
    assert [part.shape[1] for part in PastEdits(history, 3).parts()] == [WIDTH, 2, WIDTH + 1]
    assert torch.equal(torch.cat(PastEdits(history, 3).parts(), 1), together)


def test_an_edit_changes_no_entry_but_the_last():
    history, _ = appended(*[1] * (WIDTH + 2))
    before = dict(history)
    PastEdits(history, 3).append(draw(1, 99))
    assert [name for name in history if name not in before] == ["downdates/3/3"]
    assert all(history[name] is part for name, part in before.items())


@pytest.mark.parametrize("columns", [[1] * 2 * ROWS, [1] * (2 * ROWS + 1), [90], [7] * 60])
def test_there_are_never_more_than_twice_as_many_columns_as_rows(columns):
    history, together = appended(*columns)
    parts = torch.cat(PastEdits(history, 3).parts(), 1)
    assert parts.shape[1] <= 2 * ROWS
    torch.testing.assert_close(parts @ parts.T, together @ together.T)


def test_the_square_form_has_the_same_product():
    downdate = draw(100)
    made = square(downdate)
    assert made.shape == (ROWS, ROWS)
    torch.testing.assert_close(made @ made.T, downdate @ downdate.T)
