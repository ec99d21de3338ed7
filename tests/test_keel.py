"""The door from Python: facts edited inside a block, reported, and undone at its end."""

import re
from pathlib import Path

import pytest
import torch

from data_modules.records import EditRequest
from keel import apply, edited
from lightning_modules.editing.editor import Editor, Update
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.loading import load
from lightning_modules.methods.rome import ROME
from tests.tiny import EDITED_LAYER, tiny_model, tiny_tokenizer

README = Path(__file__).resolve().parents[1] / "README.md"
FACTS = [
    {"prompt": "Paris is the capital of", "subject": "Paris", "target_new": "Italy"},
    EditRequest(7, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
]
MEMIT = {
    "method": "MEMIT",
    "layers": [EDITED_LAYER],
    "second_moment": "identity",
    "preservation": 1e-3,
    "contexts": {4: 2},
    "value": ValueSearchOptions(steps=3, clamp=50.0),
}
STRONG = {"method": "FineTuning", "layers": [EDITED_LAYER], "learning_rate": 0.05}
STRONG |= {
    "radius": None,
    "placement": "teacher_forced",
    "steps": 100,
}  # a random model learns both


class Overflows(Editor):
    """A method whose update is not finite."""

    def edited_weights(self):
        return [f"model.layers.{EDITED_LAYER}.mlp.down_proj.weight"]

    def edit(self, requests):
        (name,) = self.edited_weights()
        yield Update(name, torch.full_like(self.lm.get_parameter(name), torch.inf))


@pytest.fixture
def lm():
    return tiny_model("llama").requires_grad_(True).train()


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


def state(lm):
    """All that an edit may touch: weights, gradients' flags, classes and modes."""
    weights = {name: (p.clone(), p.requires_grad) for name, p in lm.named_parameters()}
    return weights, [(type(module), module.training) for module in lm.modules()]


def same(lm, before):
    weights, modules = before
    now, modules_now = state(lm)
    return modules == modules_now and all(
        torch.equal(now[name][0], weight) and now[name][1] is wanted
        for name, (weight, wanted) in weights.items()
    )


def test_a_random_llama_states_the_facts_inside_the_block_and_is_itself_after_it(lm, tokenizer):
    before = state(lm)
    with edited(lm, tokenizer, FACTS, **STRONG) as report:
        assert not same(lm, before)
        assert report.stated == len(report) == 2
        assert [outcome.request.target_new for outcome in report] == ["Italy", "Latin"]
        assert report[0].now.startswith("Italy")
        assert not report[0].before.startswith("Italy")
        assert report[1].scores["efficacy_exact_match"] == 1
        assert str(report).startswith("2 of 2 facts are now stated.\nParis is the capital of")
    assert same(lm, before)


def test_an_exception_inside_the_block_undoes_the_edits_too(lm, tokenizer):
    before = state(lm)
    with pytest.raises(KeyboardInterrupt), edited(lm, tokenizer, FACTS, **MEMIT):
        raise KeyboardInterrupt
    assert same(lm, before)


def test_half_precision_comes_back_bit_for_bit(tokenizer):
    lm = tiny_model("llama").to(torch.bfloat16)
    before = state(lm)
    with edited(lm, tokenizer, FACTS, **MEMIT):
        assert not same(lm, before)
    assert same(lm, before)


def test_kept_edits_stand_and_can_still_be_undone(lm, tokenizer):
    before = state(lm)
    with edited(lm, tokenizer, FACTS, **MEMIT) as report:
        report.keep()
    kept = state(lm)
    assert not same(lm, before)
    assert kept[1] == before[1]
    report.undo()
    assert same(lm, before)
    apply(lm, tokenizer, FACTS, **MEMIT)
    assert same(lm, kept)


def test_blocks_nest(lm, tokenizer):
    before = state(lm)
    with edited(lm, tokenizer, FACTS[:1], **MEMIT):
        outer = state(lm)
        with edited(lm, tokenizer, FACTS[1:], **MEMIT):
            assert not same(lm, outer)
        assert same(lm, outer)
    assert same(lm, before)


def test_edits_one_after_another_differ_from_one_edit_of_all(lm, tokenizer):
    apply(lm, tokenizer, FACTS, **MEMIT).undo()
    together = apply(lm, tokenizer, FACTS, **MEMIT)
    weight = together.editor.edited.snapshot()
    together.undo()
    report = apply(lm, tokenizer, FACTS, batch_size=1, **MEMIT)
    assert report.editor.edited_cases == [0, 7]
    assert report.editor.edited.distance(weight) > 0


def test_facts_may_be_a_file_and_a_method_a_class(lm, tokenizer, tmp_path):
    file = tmp_path / "facts.csv"
    file.write_text("prompt,subject,target_new\nParis is the capital of,Paris,Italy\n")
    options = {"layer": EDITED_LAYER, "second_moment": "identity", "contexts": {4: 2}}
    with edited(lm, tokenizer, str(file), method=ROME, **options) as report:
        assert [outcome.request.text for outcome in report] == ["Paris is the capital of"]
        assert type(report.editor) is ROME


@pytest.mark.parametrize(
    ("facts", "options", "said"),
    [
        (FACTS, {"method": "MEMTI"}, r"there is no method 'MEMTI'; do you mean 'MEMIT'\?"),
        (FACTS, {"method": "SpreadSystem"}, "there is no method 'SpreadSystem'"),
        (FACTS, {"layr": [1]}, r"MEMIT has no option 'layr'; do you mean 'layers'\?"),
        ([], {}, "facts is empty; give at least one"),
        ([{"prompt": "Paris is", "subject": "Rome", "target_new": "x"}], {}, "contain the subject"),
        ([{"prompt": "Paris is", "subject": "Paris"}], {}, r"facts: record 0 has the fields"),
        ([{"prompt": "Paris is", "target_new": "x"}], MEMIT, r"case 0 \('Paris is'\) names none"),
    ],
)
def test_what_cannot_be_edited_is_refused_in_a_sentence(lm, tokenizer, facts, options, said):
    before = state(lm)
    with pytest.raises(ValueError, match=said), edited(lm, tokenizer, facts, **options):
        pass
    assert same(lm, before)


def test_facts_that_contradict_each_other_are_warned_of(lm, tokenizer):
    other = EditRequest(1, "{} is the capital of", "Paris", "Spain")
    with (
        pytest.warns(UserWarning, match="1 prompts are edited to different answers"),
        edited(lm, tokenizer, [*FACTS, other], batch_size=1, **STRONG) as report,
    ):
        assert [outcome.stated for outcome in report][::2] == [False, True]


def test_an_edit_that_fails_leaves_the_model_as_it_was(lm, tokenizer):
    before = state(lm)
    with (
        pytest.raises(FloatingPointError, match=r"'Paris is the capital of' failed \(the update"),
        edited(lm, tokenizer, FACTS, method=Overflows),
    ):
        pass
    assert same(lm, before)


def test_the_readme_says_what_is_true():
    page = README.read_text("utf-8")
    section = page[page.index("## From Python") : page.index("## Add a method")]
    first, second = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    original, _ = load("embedded")
    assert all(
        torch.equal(weight, original.get_parameter(name))
        for name, weight in names["lm"].named_parameters()
    )
    exec(compile(second, "README.md", "exec"), names)
