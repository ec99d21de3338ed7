from copy import deepcopy
from functools import partial

import pytest
import torch

from data_modules.records import EditRequest, Probe, TaskItem
from lightning_modules.language_model.answering import choose, write_answers
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME, ConsistentROME
from tests.tiny import (
    CONTEXTS,
    EDITED_LAYER,
    END,
    OPTIONS,
    tiny_chat_tokenizer,
    tiny_model,
    tiny_tokenizer,
)

REQUEST = EditRequest(
    7,
    "The river of {} is",
    "Mary",
    "Latin",
    "Greek",
    ("Mary's river is",),
    (Probe("The river of John is", "Dutch"),),
)
BEFORE, AFTER = "<user>\n", f"{END}\n<assistant>\n"


def in_chat(prompt):
    return f"{BEFORE}{prompt}{AFTER}"


def bare(prompt):
    return prompt


def ready(method=ConsistentROME, tokenizer=None, templates=CONTEXTS, **options):
    """An editor of a tiny model with a chat template, ready to edit."""
    if method is FineTuning:
        options = {"layers": [EDITED_LAYER], "learning_rate": 0.05, "radius": None} | options
    else:
        where = {"layers": [EDITED_LAYER]} if method is MEMIT else {"layer": EDITED_LAYER}
        options = (
            {"value": OPTIONS, "second_moment": "identity", "contexts": {4: 2}} | where | options
        )
    editor = method(lm="tiny", **options)
    editor.attach(deepcopy(tiny_model("llama")), tokenizer or tiny_chat_tokenizer())
    if method is not FineTuning and templates:
        editor.contexts.templates = list(templates)
    editor.prepare()
    return editor


def log_prob(editor, prompt, target="Latin"):
    return float(score(editor.lm, [target_span(editor.tokenizer, prompt, target)]).log_prob[0])


@pytest.mark.parametrize("chat", ["judge", "both", "edit", "off"])
def test_requests_are_judged_in_chat_where_it_is_wanted(chat):
    editor = ready(chat=chat)
    around = in_chat if chat in ("judge", "both") else bare
    pairs = {
        "efficacy": [(REQUEST.text, "Latin", "Greek")],
        "paraphrase": [(REQUEST.paraphrases[0], "Latin", "Greek")],
        "neighborhood": [("The river of John is", "Dutch", "Latin")],
    }
    found = editor.judge(REQUEST)
    for name, [(prompt, wanted, rival)] in pairs.items():
        spans = [target_span(editor.tokenizer, around(prompt), t) for t in (wanted, rival)]
        first, second = (-score(editor.lm, spans).nll).exp().tolist()
        assert found[f"{name}_magnitude"] == pytest.approx(first - second)


@pytest.mark.parametrize("method", [ROME, ConsistentROME, MEMIT, FineTuning])
@pytest.mark.parametrize("chat", ["edit", "judge"])
def test_edit_is_made_in_chat_or_on_the_bare_prompt_as_it_is_wanted(method, chat):
    editor = ready(method, chat=chat)
    here, there = (in_chat, bare) if chat == "edit" else (bare, in_chat)
    before = [log_prob(editor, around(REQUEST.text)) for around in (here, there)]
    editor.make_edit([REQUEST])
    after = [log_prob(editor, around(REQUEST.text)) for around in (here, there)]
    gains = [now - then for now, then in zip(after, before, strict=True)]
    assert editor.record["status"] == "applied"
    assert gains[0] > 0
    assert gains[0] > gains[1]


def test_subject_is_found_within_the_rendered_text_and_its_context():
    editor = ready(chat="edit")
    (located,) = editor.locate([REQUEST])
    tokens = editor.tokenizer(in_chat(REQUEST.text))["input_ids"]
    told = editor.tokenizer.decode(tokens[: located.subject_position + 1])
    assert told == f"{BEFORE}The river of Mary"
    inside = in_chat("The river is long. The river of Mary is")
    keys = []
    handle = editor.lm.model.layers[EDITED_LAYER].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: keys.append(args[0][0])
    )
    editor.lm(torch.tensor([editor.tokenizer(inside)["input_ids"]]))
    handle.remove()
    at = len(editor.tokenizer(f"{BEFORE}The river is long. The river of Mary")["input_ids"]) - 1
    assert torch.allclose(located.keys[1], keys[0][at], atol=1e-5)


@pytest.mark.parametrize("method", [ConsistentROME, FineTuning])
def test_end_of_the_turn_is_a_part_of_the_target(method):
    gains = []
    for end in (False, True):
        options = {"placement": "teacher_forced"} if method is FineTuning else {}
        editor = ready(method, chat="both", end_of_target=end, **options)
        editor.make_edit([REQUEST])
        gains.append(log_prob(editor, in_chat(f"{REQUEST.text}") + "Latin", END))
    assert gains[1] > gains[0]


def test_values_searched_together_are_those_of_chat_too():
    editor, other = ready(chat="edit"), ready(chat="edit")
    other_request = REQUEST._replace(case_id=8, subject="Peter")
    editor.make_ahead([[REQUEST], [other_request]])
    made = editor.sweep.find([REQUEST])
    other.make_edit([REQUEST])
    assert torch.allclose(made.updates[0].left, other.applied[0].left, atol=1e-4)


@pytest.mark.parametrize("chat", ["off", "judge"])
def test_tasks_are_put_in_chat_where_it_is_wanted(chat):
    editor, around = ready(chat=chat), in_chat if chat == "judge" else bare
    lead = "" if chat == "judge" else " "
    chosen = TaskItem("piqa", 0, "Mary lives in", (" Rome", " Paris", " London"), 2)
    by_hand = chosen._replace(
        context=around(chosen.context), choices=tuple(lead + c.strip() for c in chosen.choices)
    )
    scorer = partial(score, editor.lm)
    assert editor.answer([chosen]) == choose(scorer, editor.tokenizer, [by_hand], 128)
    written = TaskItem("nq_open", 0, "Who is Mary?", answers=("queen",), until=("\n",))
    by_hand = written._replace(context=around(written.context))
    expected = write_answers(editor.lm, editor.tokenizer, [by_hand], 8)
    assert editor.answer([written], 8) == expected


def test_separator_overrules_the_rule_for_edits_and_judgements():
    editor = ready(separator=" - ")
    spans = [target_span(editor.tokenizer, f"{REQUEST.text} -", t) for t in ("Latin", "Greek")]
    first, second = (-score(editor.lm, spans).nll).exp().tolist()
    assert editor.judge(REQUEST)["efficacy_magnitude"] == pytest.approx(first - second)


def test_chat_without_a_template_is_refused_when_the_model_is_taken():
    with pytest.raises(ValueError, match="the tokenizer of 'tiny' has no chat template"):
        ready(chat=True, tokenizer=tiny_tokenizer())


def test_card_tells_how_the_model_is_spoken_to():
    told = ready(chat="judge", end_of_target=True).card()
    assert [told[name] for name in ("chat", "separator", "end_of_target")] == ["judge", None, True]


@pytest.mark.parametrize("method", [ConsistentROME, MEMIT, FineTuning])
@pytest.mark.parametrize("bos", [False, True])
def test_token_behind_a_text_and_a_pad_beyond_the_embedding_change_no_edit(method, bos):
    weights = []
    for strange in (False, True):
        tokenizer = tiny_tokenizer(bos, eos=strange)
        if strange:
            size = tiny_model("llama").config.vocab_size
            tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), size)])
            tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        editor = ready(method, tokenizer, templates=None)
        editor.make_edit([REQUEST])
        assert editor.record["status"] == "applied"
        weights.append(editor.lm.get_parameter(editor.edited_weights()[0]).clone())
    assert torch.equal(*weights)
