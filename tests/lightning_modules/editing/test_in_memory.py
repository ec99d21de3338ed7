import pytest
import torch

from data_modules.records import EditRequest
from lightning_modules.editing.in_memory import EditReport, Outcome, lent, said
from lightning_modules.language_model.kernels import use_fast_kernels
from lightning_modules.methods.rome import ROME
from tests.tiny import END, tiny_chat_tokenizer, tiny_editor, tiny_model

REQUEST = EditRequest(0, "{} is the capital of", "Paris", "Italy")


def test_a_lent_model_comes_back_with_its_own_kernels_modes_and_flags():
    lm = tiny_model("gpt2").train()
    lm.transformer.wte.weight.requires_grad_(True)
    tokens = torch.tensor([[1, 2, 3]])
    logits = lm.eval()(tokens).logits
    lm.train()
    with pytest.raises(KeyError), lent(lm):
        raise KeyError(use_fast_kernels(lm.requires_grad_(False).eval()))
    assert lm.training
    assert [n for n, p in lm.named_parameters() if p.requires_grad] == ["transformer.wte.weight"]
    assert torch.equal(lm.eval()(tokens).logits, logits)


def test_what_is_said_is_the_greedy_continuation_up_to_the_end_of_the_line():
    editor = tiny_editor(ROME, tiny_model("gpt2"))
    (text,) = said(editor, [REQUEST])
    tokens = editor.tokenizer("Paris is the capital of", return_tensors="pt")["input_ids"]
    for _ in range(16):
        tokens = torch.cat([tokens, editor.lm(tokens).logits[:, -1].argmax(-1)[None]], 1)
        if tokens[0, -1] == 0:  # the end of the text
            break
    whole = editor.tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert text == whole.removeprefix("Paris is the capital of").partition("\n")[0].strip()


def test_a_chat_model_is_asked_in_its_template(monkeypatch):
    asked = []

    def generate(lm, tokenizer, prompts, until, max_new_tokens):
        asked.append((*prompts, *until))
        return [" Italy"]

    monkeypatch.setattr("lightning_modules.editing.in_memory.generate", generate)
    editor = ROME(lm="tiny", layer=1, second_moment="identity", contexts={4: 2}, chat="both")
    editor.attach(tiny_model("gpt2"), tiny_chat_tokenizer())
    assert said(editor, [REQUEST]) == ["Italy"]
    chat = f"<user>\nParis is the capital of{END}\n<assistant>\n"
    assert asked == [(chat, "\n", END)]


def test_a_report_counts_the_facts_that_are_stated():
    report = EditReport(tiny_editor(ROME, tiny_model("gpt2")), [REQUEST])
    report.outcomes = [
        Outcome(REQUEST, "France.", "Italy.", True, {}),
        Outcome(REQUEST, "France.", "Spain.", False, {}),
    ]
    assert str(report).splitlines() == [
        "1 of 2 facts are now stated.",
        "Paris is the capital of -> Italy: stated. It said 'France.' and says 'Italy.'.",
        "Paris is the capital of -> Italy: not stated. It said 'France.' and says 'Spain.'.",
    ]
    assert report[:1] == report.outcomes[:1]
