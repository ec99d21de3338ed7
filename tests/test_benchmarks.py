"""The benchmark measures what it says; speeds themselves are never asserted."""

import json

import pytest
import torch
from transformers import GPT2Config, GPTJConfig, LlamaConfig

from lightning_modules.functional.value_search import ValueSearchOptions
from tests.benchmarks import checkpoints, counting, expected, large, shapes, sweep, value_search
from tests.benchmarks.__main__ import PARTS, REPORT, checkpoint_table, measured_table
from tests.benchmarks.large import Shape
from tests.benchmarks.marks import PAGE
from tests.benchmarks.timing import alternate, peak_rate
from tests.oracles import padded_perplexity

SMALL = {"vocab_size": 7424, "bos_token_id": 0, "eos_token_id": 0}
SHAPES = (
    Shape("gpt2", GPT2Config(n_embd=32, n_layer=3, n_head=2, **SMALL), 1),
    Shape("gptj", GPTJConfig(n_embd=32, n_layer=3, n_head=2, rotary_dim=8, **SMALL), 1),
    Shape(
        "llama",
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            **SMALL,
        ),
        1,
    ),
)


@pytest.fixture(scope="module")
def editor():
    return shapes.embedded_editor()


def test_texts_are_as_uneven_as_me_ppl():
    lengths = sorted(shapes.lengths_like_me_ppl(1000, 325))
    assert (lengths[0], lengths[500], lengths[-1]) == (11, 24, 325)
    assert sum(lengths) / 1000 == pytest.approx(27.6, abs=1)


def test_requests_are_as_long_as_counterfacts(editor):
    assert len(shapes.counterfact_like(editor)) == len(shapes.WIDTHS) == 8


def test_both_sides_of_the_sweep_find_the_same_perplexity(editor, monkeypatch):
    monkeypatch.setattr(editor.search, "options", ValueSearchOptions(steps=3))
    requests = shapes.counterfact_like(editor)[:2]
    spans = shapes.sentences_of(editor, shapes.lengths_like_me_ppl(12, 59))
    ours = sweep.sweep(editor, requests, spans)
    assert ours == pytest.approx(sweep.one_by_one(editor, requests, spans), rel=1e-4)
    assert padded_perplexity(editor.lm, spans) not in ours


def test_operations_of_ours_are_counted_and_its_rate_is_below_the_peak():
    left, right = torch.ones(300, 200), torch.ones(200, 100)
    row = alternate(lambda: left @ right, lambda: [left @ right for _ in range(2)], 1)
    assert row["operations"] == 2 * 300 * 200 * 100
    assert 1e9 < peak_rate() < 1e13


@pytest.mark.slow
def test_value_search_is_measured_on_both_shapes():
    assert [row["ratio"] > 0 for row in value_search.rows()] == [True] * 4


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=[pytest.mark.slow] * (shape.name != "gpt2")) for shape in SHAPES],
    ids=lambda shape: shape.name,
)
def test_large_part_runs_on_the_cpu_too(shape, compile_by):
    compile_by("eager")
    rows = large.rows((shape,), torch.device("cpu"), count=2)
    assert [row.get("compiles") for row in rows] == [None, True, None, None]
    assert all(row["ratio"] > 0 and "bfloat16" in row["shape"] for row in rows)


# operations of a step per block above the edit: more of them make an edit slower on a GPU
@pytest.mark.parametrize(
    ("config", "per_block", "fixed"),
    [(GPT2Config(), 43, 105), (GPTJConfig(), 95, 103), (LlamaConfig(), 100, 126)],
    ids=["gpt2", "gptj", "llama"],
)
def test_a_step_launches_few_kernels_and_none_below_the_edit(config, per_block, fixed):
    ours, published = counting.steps_of(config)
    assert ours.below == 0
    assert (ours.above, ours.fixed) <= (per_block, fixed)
    assert ours.above <= published.above
    assert ours.fixed <= published.fixed + 5


def test_launches_grow_with_the_blocks_above_the_edit():
    ours, published = counting.steps_of(LlamaConfig())
    assert counting.counted("llama", 6, 3) == (ours.total(6, 3), published.total(6, 3))


def test_the_page_shows_the_expected_seconds():
    assert expected.table() in PAGE.read_text("utf-8"), expected.COMMAND


def test_the_page_shows_what_was_measured():
    rows = json.loads(REPORT.read_text("utf-8"))["rows"]
    page = PAGE.read_text("utf-8")
    assert measured_table(rows) in page, "make benchmark"
    assert checkpoint_table(rows) in page, "make benchmark"
    assert {row["part"] for row in rows} >= set(PARTS) - {"large"}


def test_checkpoints_of_many_edits_are_measured_in_both_ways():
    few, many = checkpoints.rows(SHAPES[2].config, counts=(2, 200), every=4)
    assert few["ours_bytes"] < few["oracle_bytes"] < many["oracle_bytes"]
    assert many["ours_bytes"] < many["oracle_bytes"] / 2


def test_large_part_is_left_out_without_an_accelerator():
    if not torch.accelerator.is_available():
        assert large.rows() == []
