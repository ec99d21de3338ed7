import math
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from callbacks.keeping.charts import LIMIT
from callbacks.keeping.dashboard import conclude, introduce, points, show
from callbacks.keeping.hyper_parameters import CEILING

PICTURE = Figure()


class Kept:
    """Keeps the calls of one method."""

    def __init__(self, name: str, **more) -> None:
        self.calls = []
        setattr(self, name, lambda *args, **options: self.calls.append((args, options)))
        vars(self).update(more)


@pytest.mark.parametrize(
    ("logger", "call"),
    [
        (SimpleNamespace(experiment=Kept("add_figure")), (("health", PICTURE, 3), {})),
        (Kept("log_image"), (("health", [PICTURE]), {"step": 3})),
        (
            SimpleNamespace(experiment=Kept("log_figure"), run_id="r"),
            (("r", PICTURE, "health.png"), {}),
        ),
        (SimpleNamespace(experiment=Kept("log_figure")), (("health", PICTURE), {"step": 3})),
    ],
    ids=["TensorBoard", "Weights & Biases", "MLflow", "Comet"],
)
def test_each_logger_gets_a_figure_through_its_own_interface(logger, call):
    none = SimpleNamespace(experiment=SimpleNamespace())
    show(SimpleNamespace(loggers=[none, logger], global_step=3), PICTURE, "health")
    assert getattr(logger, "experiment", logger).calls == [call]


def test_a_collapse_is_drawn_at_a_ceiling_beside_the_limit():
    found = points({"perplexity": math.inf, "log_perplexity": math.nan, "denominator": 1e-3}, 1e3)
    assert found == {
        "health/log_perplexity": CEILING,
        LIMIT: pytest.approx(math.log(1000)),
        "edit/denominator": 1e-3,
    }


def test_figures_too_large_for_a_chart_are_left_to_their_logarithm():
    assert points({"perplexity": 1e39, "log_perplexity": 89.8}) == {"health/log_perplexity": 89.8}


@pytest.mark.parametrize("edits", [0, 2])
def test_a_logger_without_texts_gets_settings_at_the_start_and_the_outcome_at_the_end(
    monkeypatch, edits
):
    monkeypatch.setattr("callbacks.keeping.dashboard.hyper_parameters", lambda *_: {"method": "M"})
    monkeypatch.setattr("callbacks.keeping.dashboard.outcome", lambda _: {"final/score": 0.5})
    settings, metrics = Kept("log_hyperparams"), Kept("log_metrics")
    logger = SimpleNamespace(
        log_hyperparams=settings.log_hyperparams,
        log_metrics=metrics.log_metrics,
        save=lambda: None,
    )
    trainer = SimpleNamespace(loggers=[logger], global_step=edits)
    introduce(trainer, SimpleNamespace(baseline={"perplexity": 20.0}))
    trainer.global_step = 7
    conclude(trainer, {}, [])
    assert settings.calls == [(({"method": "M"},), {})]
    first, last = metrics.calls[:-1], metrics.calls[-1]
    assert [(figures[0]["final/final_perplexity"], step) for figures, step in first] == (
        [] if edits else [(20.0, {"step": 0})]
    )
    assert last == (({"final/score": 0.5},), {"step": 7})
