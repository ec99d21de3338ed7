import re

from callbacks.keeping.charts import CHARTS, layout
from callbacks.keeping.dashboard import tag
from callbacks.watching.signals import SIGNALS


def test_only_charts_with_a_line_are_laid_out():
    found = layout(["health/log_perplexity", "edit/update_norm", "edit/reason"])
    assert list(found) == ["Health", "Keys"]
    ((kind, lines),) = found["Health"].values()
    assert (kind, lines[0]) == ("Multiline", "health/log_perplexity$")
    assert list(found["Keys"]) == ["size of the change"]


def test_lines_before_the_edit_are_in_no_chart_of_those_after():
    (quality,) = layout(["scores_rome/efficacy"]).values()
    ((_, (line,)),) = quality.values()
    assert re.match(line, "scores_rome/efficacy")
    assert not re.match(line, "scores_rome/efficacy_before")


def test_every_chart_draws_a_figure_of_a_record():
    names = ("log_perplexity", "efficacy", "efficacy_exact_match", "efficacy_generation")
    more = ("denominator", "key_cosine", "update_norm", "value_loss", "seconds_edit", "tasks/piqa")
    found = layout([tag(name) for name in (*names, *more, *SIGNALS)])
    assert {name: set(charts) for name, charts in found.items()} == {
        name: set(charts) for name, charts in CHARTS.items()
    }
