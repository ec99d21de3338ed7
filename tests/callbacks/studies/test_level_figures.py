import math

import pytest

from callbacks.studies.level_figures import (
    MARKERS,
    NAMES,
    TICKS,
    levels_figure,
    perplexity_at,
    published_scores,
)

HEAD = "model,task,ppl_level_index(0=original),score_digitised\n"
POINTS = [
    {"perplexity": 60.0, "tasks": {"piqa": 0.9, "squad_v2_f1": 0.2}},
    {"perplexity": 250.0, "tasks": {"piqa": 0.7, "squad_v2_f1": 0.1}},
    {"perplexity": math.inf, "tasks": {"piqa": 0.5, "squad_v2_f1": 0.0}},
]


def drawn(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def test_levels_of_a_tick_have_its_perplexity_and_those_between_lie_between():
    for model, ticks in TICKS.items():
        assert [perplexity_at(model, level) for level in range(0, 21, 4)] == list(ticks)
        course = [perplexity_at(model, level) for level in range(21)]
        assert course == sorted(course)
        assert course[19] < 1020


def test_levels_behind_the_last_tick_are_not_known():
    assert math.isnan(perplexity_at("GPT-J", 21))


def test_the_papers_points_are_read_under_our_names(tmp_path):
    file = tmp_path / "curves.csv"
    file.write_text(f"{HEAD}GPT-J,Hellaswag,2,0.4\nLlama2-7b,SQuAD2.0,20,0.01\nGPT-J,PIQA,22,0.5\n")
    first, second = published_scores(str(file))
    assert first == ("GPT-J", "hellaswag", pytest.approx((50.34 + 229.5) / 2), 0.4)
    assert second == ("Llama2-7b", "squad_v2_f1", 5193.73, 0.01)


@pytest.mark.parametrize(
    "line", ["GPT-5,PIQA,1,0.5", "GPT-J,Chess,1,0.5", "GPT-J,PIQA,one,0.5", "GPT-J,PIQA,1"]
)
def test_a_line_of_another_form_is_refused(tmp_path, line):
    file = tmp_path / "curves.csv"
    file.write_text(f"{HEAD}GPT-J,PIQA,0,0.7\n{line}\n")
    with pytest.raises(ValueError, match=rf"line 3 must be model, task, level, .* got '{line}'"):
        published_scores(str(file))


def test_all_digitised_curves_are_read(shared_data):
    found = published_scores(str(shared_data / "paper_curves" / "ppl_vs_task_curves.csv"))
    assert len(found) == 12 * 21
    assert {point.task for point in found} == set(NAMES.values())
    assert {point.model for point in found} == set(MARKERS)


def test_every_score_has_a_panel_with_its_rho_and_random_guess():
    figure = levels_figure(POINTS, {"piqa": 0.5}, {"piqa": -0.987})
    piqa, squad = figure.axes
    assert [axes.get_title() for axes in (piqa, squad)] == ["piqa, rho = -0.99", "squad_v2_f1"]
    assert piqa.get_xscale() == "log"
    assert drawn(piqa)["unedited"] == [[60.0, 0.9]]
    end = piqa.get_xlim()[1]
    assert drawn(piqa)["edited, first of its level"] == [[250.0, 0.7], [end, 0.5]]
    assert drawn(piqa)["infinite (1)"] == [[end, 0.5]]
    assert end == 1000
    assert drawn(piqa)["random guess"] == [[0.0, 0.5], [1.0, 0.5]]
    assert drawn(squad)["random guess"] == [[0.0, 0.0], [1.0, 0.0]]
    assert len(piqa.get_lines()) == 4
    assert len(squad.get_lines()) == 4


def test_the_papers_points_lie_beside_ours_with_a_marker_for_each_model(tmp_path):
    file = tmp_path / "curves.csv"
    file.write_text(f"{HEAD}GPT-J,PIQA,0,0.75\nGPT-2-XL,PIQA,4,0.65\nGPT-J,PIQA,4,0.6\n")
    figure = levels_figure(POINTS, {}, {}, published_scores(str(file)))
    piqa, squad = figure.axes
    assert "interpolated between ticks" in figure.get_supxlabel()
    label = "{} (digitised)"
    assert drawn(piqa)[label.format("GPT-J")] == [[50.34, 0.75], [229.5, 0.6]]
    assert drawn(piqa)[label.format("GPT-2-XL")] == [[247.68, 0.65]]
    markers = {line.get_marker() for line in piqa.get_lines()}
    assert markers == {"o", "*", "^", "s", ">", "None"}
    assert len(squad.get_lines()) == 4
