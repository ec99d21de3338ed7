import numpy as np
import pytest
import torch

from callbacks.studies.drift_figures import COLUMNS, ROWS, Panel, heat_maps, pooled, spectra

CHANGE = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))


def panels(*scales, weights=("1_c_proj",)):
    return [
        Panel(f"edit {n}", weight, pooled(scale * CHANGE), (6, 10))
        for n, scale in enumerate(scales)
        for weight in weights
    ]


def images(figure):
    return [axes.get_images()[0] for axes in figure.axes if axes.get_xlabel()]


def test_a_small_weight_is_drawn_entry_by_entry():
    assert pooled(-CHANGE).equal(CHANGE.abs())


def test_a_cell_shows_the_largest_change_of_its_entries():
    large = torch.randn(3 * ROWS, 2 * COLUMNS, generator=torch.Generator().manual_seed(1))
    cells = pooled(large)
    assert cells.shape == (ROWS, COLUMNS)
    for row, column in ((0, 0), (5, 17), (ROWS - 1, COLUMNS - 1)):
        block = large[3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
        assert cells[row, column] == block.abs().max()


@pytest.mark.parametrize(("ceiling", "top"), [(0.5, 0.5), (None, None)])
def test_all_panels_have_one_scale(ceiling, top):
    drawn = images(heat_maps(panels(10.0, 0.1), 1, ceiling))
    top = top or np.quantile(10 * CHANGE.abs(), 0.99)
    assert [image.get_clim() for image in drawn] == [pytest.approx((0, top))] * 2
    assert np.allclose(drawn[1].get_array(), 0.1 * CHANGE.abs())


def test_edits_of_one_weight_stand_side_by_side_and_those_of_several_below_one_another():
    assert heat_maps(panels(1.0, 2.0, 3.0), 1, None).axes[0].get_gridspec().get_geometry() == (1, 3)
    several = heat_maps(panels(1.0, 2.0, weights=("0_c_proj", "1_c_proj", "2_c_proj")), 3, None)
    assert several.axes[0].get_gridspec().get_geometry() == (2, 3)
    assert several.axes[4].get_title() == "edit 1\nlayer 1, c_proj"


def test_a_weight_that_did_not_change_is_blank():
    (drawn,) = images(heat_maps(panels(0.0), 1, None))
    assert drawn.get_clim() == (0, 1)
    assert not drawn.get_array().any()


def test_axes_and_scale_are_named():
    figure = heat_maps(panels(1.0), 1, 0.5)
    assert figure.axes[0].get_xlabel() == "inner neuron (input)"
    assert figure.axes[-1].get_ylabel() == "|W' - W| of an entry, largest per cell"


class TestSpectra:
    edits = tuple(
        {
            "edit": n,
            "collapsed": n == 3,
            "drift_spectrum": [10.0 * n, n - 1.0, 1e-9],
            "drift_weight_spectral_norm": 20.0 + n,
        }
        for n in (1, 2, 3)
    )

    def lines(self, single=False):
        (axes,) = spectra([{"edit": 9}, *self.edits], ["1_c_proj"], single).axes
        assert axes.get_yscale() == "log"
        return {line.get_label(): line for line in axes.get_lines()}

    def test_singular_values_of_change_and_weight_are_drawn_over_edits(self):
        drawn = self.lines()
        assert drawn["W' - W, largest"].get_xydata().tolist() == [[1, 10], [2, 20], [3, 30]]
        assert drawn["W', largest"].get_ydata().tolist() == [21, 22, 23]
        assert drawn["collapsed"].get_xydata().tolist() == [[3, 30]]

    def test_rounding_errors_are_not_drawn(self):
        drawn = self.lines()
        assert np.isnan(drawn["W' - W, next ones"].get_ydata()).tolist() == [True, False, False]
        assert len(drawn) == 4

    def test_single_edits_are_not_joined(self):
        assert self.lines(single=True)["W' - W, largest"].get_linestyle() == "None"

    def test_each_weight_has_a_panel(self):
        edits = [
            {
                "edit": 1,
                f"drift_spectrum_{label}": [1.0],
                f"drift_weight_spectral_norm_{label}": 2.0,
            }
            for label in ("0_c_proj", "1_c_proj")
        ]
        merged = [edits[0] | edits[1]]
        assert len(spectra(merged, ["0_c_proj", "1_c_proj"], False).axes) == 2
