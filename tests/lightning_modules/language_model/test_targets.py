import math

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.language_model.layout import output_weight_name
from lightning_modules.language_model.lower_states import LowerStates
from lightning_modules.language_model.targets import place_targets, target_loss
from lightning_modules.language_model.tokens import Span, target_span
from tests.tiny import EDITED_LAYER, tiny_tokenizer

CPU = torch.device("cpu")
TEXTS = [
    ("He plays the", "violin"),
    ("The mother tongue of Danielle Vinson is", "Latin"),
    ("He", "is"),
]
PLACEMENTS = pytest.mark.parametrize("placement", ["last_token", "teacher_forced"])


def spans_of(tokenizer) -> list[Span]:
    return [target_span(tokenizer, prompt, target) for prompt, target in TEXTS]


def naive_loss(lm, spans, placement):
    """One text after another through the whole model, logits everywhere."""
    losses = []
    for span in spans:
        forced = placement == "teacher_forced"
        text = span.tokens if forced else span.tokens[: span.start]
        logits = lm(torch.tensor([text])).logits[0]
        targets = torch.tensor(span.tokens[span.start :])
        asked = logits[span.start - 1 : -1] if forced else logits[[-1] * len(targets)]
        losses.append(F.cross_entropy(asked, targets))
    return torch.stack(losses).mean()


@PLACEMENTS
def test_loss_and_gradient_are_those_of_whole_passes_one_by_one(tiny_lm, tokenizer, placement):
    spans = spans_of(tokenizer)
    name = output_weight_name(tiny_lm, EDITED_LAYER)
    weight = tiny_lm.get_parameter(name)
    other = (weight + 0.05 * torch.randn_like(weight)).requires_grad_()
    lower = LowerStates(EDITED_LAYER, math.inf)
    targets = place_targets(spans, placement, CPU)
    target_loss(tiny_lm, {name: weight}, targets, lower)  # the second pass starts at the layer
    loss = target_loss(tiny_lm, {name: other}, targets, lower)
    (gradient,) = torch.autograd.grad(loss, other)
    assert len(lower.kept) == 1

    kept = weight.detach().clone()
    weight.data.copy_(other.detach())
    weight.requires_grad_()
    slow = naive_loss(tiny_lm, spans, placement)
    (slow_gradient,) = torch.autograd.grad(slow, weight)
    weight.requires_grad_(False).data.copy_(kept)

    assert loss.item() == pytest.approx(slow.item(), rel=1e-5)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in tiny_lm.parameters())


@PLACEMENTS
def test_padding_and_special_tokens_are_no_targets(tokenizer, placement):
    spans = spans_of(tokenizer)
    targets = place_targets(spans, placement, CPU)
    asked = [token for span in spans for token in span.tokens[span.start :]]
    assert targets.tokens.tolist() == asked
    assert tokenizer.bos_token_id not in asked
    places = zip(targets.rows.tolist(), targets.columns.tolist(), strict=True)
    assert all(column < len(targets.texts[row]) for row, column in places)
    assert targets.rows.bincount().tolist() == [len(s.tokens) - s.start for s in spans]


def test_last_token_reads_no_target_and_asks_for_all_at_one_place():
    (span,) = spans = [target_span(tiny_tokenizer(), "He plays the", "violin and guitar")]
    targets = place_targets(spans, "last_token", CPU)
    assert targets.texts == [span.tokens[: span.start]]
    assert set(targets.columns.tolist()) == {span.start - 1}
    assert len(targets.tokens) > 1


def test_one_target_token_is_placed_the_same_either_way():
    spans = [Span([5, 6, 7], 2), Span([8, 9], 1)]
    last, forced = (place_targets(spans, p, CPU) for p in ("last_token", "teacher_forced"))
    assert last.texts == forced.texts
    for one, other in zip(last[1:], forced[1:], strict=True):
        assert torch.equal(one, other)
