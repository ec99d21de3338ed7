import pytest
import torch

from data_modules.records import EditRequest
from lightning_modules.editing.in_memory import EditReport, Outcome, lent
from lightning_modules.language_model.kernels import use_fast_kernels
from lightning_modules.methods.rome import ROME
from tests.tiny import tiny_editor, tiny_model

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
