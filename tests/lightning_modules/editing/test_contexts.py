import json
import math

import pytest
import torch

from callbacks.watching.edit_metrics import EditMetrics
from callbacks.watching.restore import RestoreWeights
from data_modules.records import EditRequest
from lightning_modules.editing.prefixes import PromptPrefix
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME, ConsistentROME
from tests.callbacks.runs import (
    METHOD,
    REQUESTS,
    WEIGHT,
    data_of,
    fit,
    tiny_lm,
    trainer_in,
    watching,
)
from tests.tiny import tiny_editor

FIRST = EditRequest(1, "{} plays the", "He", "violin", "piano", ("Of him: he plays the",))
LATER = EditRequest(2, "The mother tongue of {} is", "Danielle Vinson", "Latin", "Greek")


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


class Prefixed(ConsistentROME):
    """C-ROME, all requests judged behind a context."""

    def __init__(self, **options):
        super().__init__(test_prefix=PromptPrefix("all", paraphrases=True), **options)


def editor_with(lm, policy, **options):
    editor = tiny_editor(ROME, lm)
    editor.contexts.prefix = PromptPrefix(policy, **options)
    return editor


def nll(editor, prompt, target):
    """Mean NLL of the target's tokens, in one plain pass."""
    span = target_span(editor.tokenizer, prompt, target)
    logits = editor.lm(torch.tensor([span.tokens])).logits[0].double().log_softmax(-1)
    places = range(span.start, len(span.tokens))
    return -sum(float(logits[n - 1, span.tokens[n]]) for n in places) / len(places)


def test_judging_puts_the_context_before_the_rewrite_prompt(tiny_lm):
    editor = editor_with(tiny_lm, "all")
    judged = editor.judge(FIRST)
    context = editor.contexts.templates[editor.contexts.number_of(FIRST)]
    prompt = context.replace("{}", FIRST.text)
    new, true = (nll(editor, prompt, t) for t in (FIRST.target_new, FIRST.target_true))
    assert judged["efficacy"] == (new < true)
    assert judged["efficacy_magnitude"] == pytest.approx(math.exp(-new) - math.exp(-true), rel=1e-4)
    assert editor.record["test_prefix"] == {"1": context}
    plain = editor_with(tiny_lm, "none").judge(FIRST)
    assert judged["efficacy_magnitude"] != pytest.approx(plain["efficacy_magnitude"], rel=1e-6)
    assert judged["paraphrase_magnitude"] == pytest.approx(plain["paraphrase_magnitude"], rel=1e-4)


def test_nothing_stands_before_a_prompt_by_default(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2)
    assert editor.worded(FIRST) is FIRST
    assert "test_prefix" not in editor.record


def test_collapse_means_a_plain_key_far_from_the_mean_key(tiny_gpt2):
    cosines = {
        request: located.key_cosine
        for request in (FIRST, LATER)
        for located in tiny_editor(ROME, tiny_gpt2).locate([request])
    }
    far, near = sorted(cosines, key=cosines.__getitem__)
    editor = editor_with(tiny_gpt2, "collapse", cosine=sum(cosines.values()) / 2)
    assert editor.worded(near) is near
    context = editor.contexts.templates[editor.contexts.number_of(far)]
    assert editor.worded(far).prompt == context.replace("{}", far.prompt)
    assert editor.record["test_prefix"] == {str(far.case_id): context}


def test_collapse_is_told_by_the_unedited_model_whatever_the_edits(tiny_gpt2):
    editor = editor_with(tiny_gpt2, "collapse", cosine=0.999)
    expected = editor.worded(FIRST), editor.worded(LATER)
    editor.contexts._far.clear()
    for update in editor.edit([FIRST]):
        editor.apply_update(update)
    edited = {name: weight.clone() for name, weight in editor.edited.masters().items()}
    assert (editor.worded(FIRST), editor.worded(LATER)) == expected
    assert all(torch.equal(editor.edited.master(name), edited[name]) for name in edited)
    editor.restore()


def test_the_journal_tells_each_edits_prefix_and_scores_it_before_and_after(lm, tmp_path):
    run = fit(lm, tmp_path, watching(), method=Prefixed)
    contexts = run.summary["contexts"]
    assert run.summary["test_prefix"] == {"policy": "all", "paraphrases": True, "cosine": 0.5}
    for edit, request in zip(run.edits, REQUESTS, strict=True):
        expected = contexts[run.editor.contexts.number_of(request)]
        assert edit["test_prefix"] == {str(request.case_id): expected}
        assert expected != "{}"
    plain = fit(lm, tmp_path / "plain", watching(), method=ConsistentROME)
    assert plain.edits[0]["efficacy_magnitude_before"] != run.edits[0]["efficacy_magnitude_before"]
    assert plain.edits[0]["update_norm"] == run.edits[0]["update_norm"]


def test_a_sweep_made_ahead_tells_it_too(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), RestoreWeights(together=4)], method=Prefixed)
    assert [list(edit["test_prefix"]) for edit in run.edits] == [
        [str(request.case_id)] for request in REQUESTS
    ]


def test_an_unedited_model_is_tested_behind_contexts_of_its_own(lm, tmp_path):
    editor = Prefixed(lm=lm, **METHOD)
    trainer = trainer_in(tmp_path, [EditMetrics()])
    trainer.test(editor, data_of())
    assert len(editor.contexts.templates) == 3
    assert editor.record["test_prefix"].keys() == {str(r.case_id) for r in REQUESTS}
    assert "retention/efficacy" in trainer.callback_metrics


def test_contexts_of_the_checkpoint_serve_the_test(lm, tmp_path):
    run = fit(lm, tmp_path, watching(), method=Prefixed)
    file = tmp_path / "after.ckpt"
    run.trainer.save_checkpoint(file, weights_only=False)
    fresh = Prefixed(lm=lm, **(METHOD | {"contexts": {4: 2}}))
    trainer_in(tmp_path, watching()).test(fresh, data_of(), ckpt_path=file)
    assert fresh.contexts.templates == run.summary["contexts"]
    assert torch.equal(fresh.lm.get_parameter(WEIGHT), run.weight)
    told = {k: v for edit in run.edits for k, v in edit["test_prefix"].items()}
    assert json.loads(json.dumps(fresh.record["test_prefix"])) == told


@pytest.mark.parametrize("method", [ROME, MEMIT])
def test_a_prefix_without_contexts_is_refused(method):
    options = {"layer": 0} if method is ROME else {"layers": [0]}
    with pytest.raises(ValueError, match="policy is 'collapse', but there is no context beside"):
        method(**options, contexts={}, test_prefix=PromptPrefix("collapse"))
