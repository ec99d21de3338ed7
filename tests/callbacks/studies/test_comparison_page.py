import pytest

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.studies.comparison_page import (
    ComparisonPage,
    as_html,
    as_markdown,
    as_text,
    marked,
    titled,
)
from data_modules.prompts import Prompts
from lightning_modules.jobs.compare import Compare
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, tiny_lm, trainer_in

ROWS = [
    {"prompt": "Paris | is", "left": "in France. It is old", "right": "in *Italy*. It is old"},
    {"prompt": "Rome is", "left": "in\nItaly", "right": "in Italy"},
]


def brackets(words, differs):
    return f"[{words}]" if differs else words


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ("a b c", "a b c", ("a b c", "a b c")),
        ("a b c", "a x y c", ("a [b] c", "a [x y] c")),
        ("a b", "b", ("[a] b", "b")),
        ("", "b c", ("", "[b c]")),
        ("a\n b", "a b", ("a b", "a b")),
    ],
)
def test_runs_of_words_that_differ_are_marked(left, right, found):
    assert marked(left, right, brackets) == found
    assert marked(right, left, brackets) == found[::-1]


def test_a_side_that_is_a_number_is_the_model_as_of_that_edit():
    assert [titled(side) for side in ("3", "original")] == ["as of edit 3", "original"]


def test_text_shows_both_sides_in_columns_under_each_prompt():
    lines = as_text(ROWS, "original", "edited").splitlines()
    assert lines[0] == "1 of 2 continuations differ."
    assert [line.split("|")[0].strip() for line in lines[1:5]] == [
        "ORIGINAL", "", "Paris", "in [France.] It is old",
    ]  # fmt: skip
    assert lines[4].endswith("| in [*Italy*.] It is old")


def test_markdown_marks_in_bold_and_escapes_what_would_break_the_table():
    page = as_markdown(ROWS, "original", "edited")
    assert r"| Paris \| is | in **France.** It is old | in **\*Italy\*.** It is old |" in page
    assert page.startswith("# original and edited\n\n1 of 2 continuations differ.\n")


def test_html_highlights_and_escapes_and_needs_no_network():
    rows = [{"prompt": "<b>", "left": "a & b", "right": "a & c"}]
    page = as_html(rows, "original", "without 3")
    assert (
        "<td>&lt;b&gt;</td><td>a &amp; <mark>b</mark></td><td>a &amp; <mark>c</mark></td>" in page
    )
    assert "://" not in page


def test_predict_writes_both_pages(tmp_path, caplog):
    lm = tiny_lm(tmp_path / "lm")
    fit(lm, tmp_path / "run", [EditLedger()], limit_val_batches=0)
    (tmp_path / "prompts.txt").write_text("Paris is\nMiles Davis plays the\nThe Nile\n")
    trainer = trainer_in(tmp_path / "out", [ComparisonPage()])
    model = Compare(str(tmp_path / "run"), lm=lm, right=2, max_new_tokens=4)
    with caplog.at_level("INFO"):
        trainer.predict(model, datamodule=Prompts(str(tmp_path / "prompts.txt"), batch_size=2))
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert page.startswith("# original and as of edit 2\n")
    assert [
        f"| {line} |" in page for line in ("Paris is", "Miles Davis plays the", "The Nile")
    ] == [True] * 3
    assert "The Nile" in (tmp_path / "out" / "comparison.html").read_text()


def test_a_module_that_compares_nothing_is_refused(tmp_path):
    trainer = trainer_in(tmp_path, [ComparisonPage()])
    with pytest.raises(ValueError, match=r"needs .*Compare as the model: take compare.yaml"):
        trainer.predict(ROME(lm=tiny_lm(tmp_path), **METHOD), datamodule=data_of(REQUESTS))
