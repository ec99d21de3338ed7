import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_modules.language_model.rope import refuse_mixed_lengths, rope_boundary
from lightning_modules.language_model.scoring import batches_by_length, score
from lightning_modules.language_model.tokens import Span, collate
from tests.tiny import tiny_config, tiny_model

BOUNDARY = 8
TEXTS = [[7, 31, 90, 12, 55], list(range(20, 31)), [3, 9, 4, 8, 1, 6, 2, 7, 40], list(range(9))]


@pytest.fixture
def longrope() -> PreTrainedModel:
    config = tiny_config("phi3", sliding_window=None, original_max_position_embeddings=BOUNDARY)
    config.rope_parameters |= {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [2.0, 4.0, 8.0, 16.0],
        "original_max_position_embeddings": BOUNDARY,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()


def test_only_longrope_has_a_boundary(longrope):
    assert rope_boundary(longrope) == BOUNDARY
    assert rope_boundary(tiny_model("phi3")) is None
    assert rope_boundary(tiny_model("gpt2")) is None


def test_score_does_not_depend_on_its_neighbors(longrope):
    spans = [Span(text, 1) for text in TEXTS]
    refuse_mixed_lengths(longrope)
    together = score(longrope, spans).log_prob
    alone = torch.cat([score(longrope, [span]).log_prob for span in spans])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-6)


def test_padding_with_a_long_text_would_change_a_short_ones_logits(longrope):
    batch = collate(TEXTS[:2], longrope.device)
    mixed = longrope(batch.tokens, attention_mask=batch.mask, position_ids=batch.positions).logits
    own = longrope(torch.tensor(TEXTS[:1])).logits[0]
    assert (mixed[0, :5] - own).abs().max() > 1e-3


def test_batch_on_both_sides_is_refused(longrope):
    refuse_mixed_lengths(longrope)
    refuse_mixed_lengths(longrope)
    batch = collate(TEXTS[:2], longrope.device)
    for model in (longrope, longrope.base_model):
        with pytest.raises(ValueError, match=r"of 5 and of 11 tokens .* more than 8 with other"):
            model(batch.tokens, attention_mask=batch.mask)
    longrope(torch.tensor(TEXTS[:1]), attention_mask=torch.ones(1, 5))
    assert len(longrope._forward_pre_hooks) == 1


def test_batches_end_at_the_boundary():
    assert list(batches_by_length([4, 9, 8, 12], 1000, 8)) == [[0, 2], [1, 3]]
    assert list(batches_by_length([4, 9, 8, 12], 1000)) == [[0, 2, 1, 3]]
