import torch

from lightning_modules.language_model.layout import blocks, oriented, output_weight_name
from lightning_modules.language_model.lower_states import LowerStates
from lightning_modules.language_model.scoring import Batching, score
from lightning_modules.language_model.tokens import Span, collate
from tests.tiny import WINDOW

SPANS = [Span([9, 8, 300, 71, 12, 44, 90], 1), Span([5, 6, 7], 2), Span([33, 1, 401, 2, 210], 1)]
LAYER = 1


def calls_of_lowest_block(lm, spans: list[Span], lower: LowerStates) -> int:
    called = []
    handle = blocks(lm)[0].self_attn.register_forward_pre_hook(lambda *_: called.append(0))
    score(lm, spans, lower=lower)
    handle.remove()
    return len(called)


def test_texts_score_alike_again_after_an_edit(tiny_lm):
    lower = LowerStates(LAYER, 1e9)
    first, plain = score(tiny_lm, SPANS, lower=lower), score(tiny_lm, SPANS)
    torch.testing.assert_close(first.log_prob, plain.log_prob)
    weight = oriented(tiny_lm, output_weight_name(tiny_lm, LAYER))
    original = weight.clone()
    torch.manual_seed(0)
    weight += 0.1 * torch.outer(torch.randn(32), torch.randn(48))
    again, edited = score(tiny_lm, SPANS, lower=lower), score(tiny_lm, SPANS)
    weight.copy_(original)
    torch.testing.assert_close(again.log_prob, edited.log_prob, rtol=1e-6, atol=1e-5)
    assert (edited.log_prob - plain.log_prob).abs().min() > 1e-3
    assert len(lower.kept) == 1
    assert max(len(span.tokens) for span in SPANS) > WINDOW


def test_layers_below_the_edit_run_once(tiny_llama):
    lower = LowerStates(LAYER, 1e9)
    assert calls_of_lowest_block(tiny_llama, SPANS, lower) == 1
    assert calls_of_lowest_block(tiny_llama, SPANS, lower) == 0
    assert calls_of_lowest_block(tiny_llama, SPANS[:2], lower) == 1


def test_states_beyond_the_budget_are_not_kept(tiny_llama):
    size = len(SPANS) * 6 * 32 * 4  # the last token is not read
    lower = LowerStates(LAYER, size - 1)
    score(tiny_llama, SPANS, lower=lower)
    assert lower.kept == {}
    lower = LowerStates(LAYER, 1.5 * size)
    for spans in (SPANS, SPANS[::-1]):
        score(tiny_llama, spans, lower=lower, batching=Batching(10**6))
    assert sum(hidden.nbytes for hidden in lower.kept.values()) <= 1.5 * size


def test_padding_is_not_taken_for_the_token_that_pads(tiny_llama):
    lower, device = LowerStates(LAYER, 1e9), torch.device("cpu")
    for rows in ([[0, 6, 0], [7]], [[0, 6, 0], [7, 0, 0]], [[0, 6, 0], [7, 0]]):
        batch = collate(rows, device)
        with lower.reused(tiny_llama, rows):
            tiny_llama(batch.tokens, attention_mask=batch.mask, position_ids=batch.positions)
    assert len(lower.kept) == 3
