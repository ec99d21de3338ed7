import math

import pytest
import torch

from callbacks.studies.layer_figures import study_figure, trace_figure
from lightning_modules.functional.causal_trace import ROLES

LAYERS = [0, 2, 4]
EFFECTS = {
    "hidden": torch.tensor([[0.1, 0.2, 0.3]] * 5 + [[0.0, 0.5, 0.9]]),
    "mlp": torch.tensor([[0.0, 0.4, 0.1]] * 6),
    "attention": torch.tensor([[0.0, 0.1, -0.1]] * 5 + [[math.nan] * 3]),
}
ROWS = [
    {"layer": 0, "efficacy": 1.0, "perplexity": 80.0, "perplexity_highest": 90.0},
    {"layer": 3, "efficacy": 0.5, "perplexity": math.inf, "perplexity_highest": math.inf},
]


class TestTrace:
    figure = trace_figure(EFFECTS, torch.tensor([4, 4, 2, 4, 3, 0]), LAYERS, 6)
    maps = figure.axes[:3]

    def test_all_three_maps_are_on_one_grey_scale(self):
        images = [axes.images[0] for axes in self.maps]
        for image in images:
            assert image.get_clim() == pytest.approx((0, 0.9))
        assert {image.get_cmap().name for image in images} == {"Greys"}

    def test_rows_are_roles_with_their_facts_and_columns_layers(self):
        labels = [label.get_text() for label in self.maps[0].get_yticklabels()]
        assert labels == [f"{r} ({n})" for r, n in zip(ROLES, (4, 4, 2, 4, 3, 0), strict=True)]
        assert self.maps[0].images[0].get_extent() == [-1.0, 5.0, 5.5, -0.5]
        assert "6 layers" in self.maps[1].get_title()

    def test_the_peak_of_each_map_is_marked(self):
        marks = [tuple(float(c[0]) for c in axes.lines[0].get_data()) for axes in self.maps]
        assert marks == [(4, 5), (2, 0), (2, 0)]
        assert [axes.texts[0].get_text() for axes in self.maps] == ["0.90", "0.40", "0.10"]


class TestStudy:
    def test_curves_run_over_layers_and_an_infinite_perplexity_is_at_the_axis_end(self):
        scores, perplexity, denominator = study_figure(ROWS, {"perplexity": 79.0}).axes
        assert [line.get_label() for line in scores.lines] == ["efficacy"]
        assert scores.lines[0].get_xydata().tolist() == [[0, 1.0], [3, 0.5]]
        assert [line.get_label() for line in perplexity.lines] == [
            *("mean", "worst edit", "unedited", "infinite (1)")
        ]
        end = perplexity.get_ylim()[1]
        assert perplexity.lines[0].get_ydata().tolist() == [80.0, end]
        assert end < 1000
        assert not denominator.lines

    def test_a_baseline_that_was_not_measured_is_not_drawn(self):
        perplexity = study_figure(ROWS, {}).axes[1]
        assert "unedited" not in [line.get_label() for line in perplexity.lines]
