import torch

from lightning_modules.language_model.last_states import last_states
from lightning_modules.language_model.layout import oriented, output_weight_name
from lightning_modules.language_model.lower_states import LowerStates
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.tokens import Span

SPANS = [Span([9, 8, 300, 71, 12, 44, 90], 1), Span([5, 6, 7], 1), Span([33, 1, 401, 2, 210], 1)]
SHORTEST_FIRST = sorted(SPANS, key=lambda span: len(span.tokens))


def one_by_one(lm):
    rows = [torch.tensor([span.tokens[:-1]]) for span in SHORTEST_FIRST]
    with torch.no_grad():
        return torch.cat([lm.base_model(row).last_hidden_state[0] for row in rows])


def test_states_are_those_of_single_texts_without_padding(tiny_lm):
    torch.testing.assert_close(
        last_states(tiny_lm, SPANS), one_by_one(tiny_lm), atol=1e-5, rtol=1e-5
    )


def test_small_batches_give_the_same_states_in_the_same_order(tiny_llama):
    small = last_states(tiny_llama, SPANS, batch_tokens=6)
    torch.testing.assert_close(small, last_states(tiny_llama, SPANS), atol=1e-5, rtol=1e-5)


def test_the_output_head_reads_these_states(tiny_llama):
    logits = tiny_llama.get_output_embeddings()(last_states(tiny_llama, SPANS))
    told = score(tiny_llama, SHORTEST_FIRST).guesses
    assert logits.argmax(-1).tolist() == told.tolist()


def test_states_below_the_edit_come_from_the_cache_of_the_watched_texts(tiny_llama):
    lower = LowerStates(1, 1e9)
    score(tiny_llama, SPANS, lower=lower)
    kept = len(lower.kept)
    weight = oriented(tiny_llama, output_weight_name(tiny_llama, 1))
    original = weight.clone()
    weight += 0.1
    found, wanted = last_states(tiny_llama, SPANS, lower=lower), one_by_one(tiny_llama)
    weight.copy_(original)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert len(lower.kept) == kept
    assert (found - one_by_one(tiny_llama)).abs().max() > 1e-3


def test_a_text_of_one_token_and_one_that_recurs_count_once(tiny_llama):
    spans = [Span([5], 1), Span([5, 6], 1), Span([5, 7], 1)]
    assert len(last_states(tiny_llama, spans)) == 1
