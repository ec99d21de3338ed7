import pytest
import torch

from lightning_modules.editing.edited_weights import EditedWeights, Update
from lightning_modules.language_model.apart import edited_apart
from lightning_modules.language_model.layout import blocks, output_map, output_weight_name
from lightning_modules.language_model.lower_states import LowerStates
from lightning_modules.language_model.scoring import Batching, score
from lightning_modules.language_model.tokens import Span
from tests.tiny import tiny_model

SPANS = [Span([9, 8, 300, 71, 12, 44, 90], 1), Span([5, 6, 7], 2), Span([33, 1, 401, 2, 210], 1)]


def updates(lm, count: int, layers: tuple[int, ...] = (1, 2)) -> list[list[Update]]:
    """So many edits of two layers, of rank two."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int):
        return 0.3 * torch.randn(*shape, generator=generator)

    return [
        [Update(output_weight_name(lm, n), random(32, 2), random(2, 48)) for n in layers]
        for _ in range(count)
    ]


def pairs(edits: list[list[Update]]) -> dict:
    names = [update.weight for update in edits[0]]
    return {name: [(e[n].left, e[n].right) for e in edits] for n, name in enumerate(names)}


@pytest.mark.parametrize("kept", [False, True])
def test_each_copy_scores_as_the_model_with_that_edit(tiny_lm, kept):
    edits = updates(tiny_lm, 3)
    edited = EditedWeights(tiny_lm, [update.weight for update in edits[0]])
    lower = LowerStates(1, 1e9)
    if kept:
        score(tiny_lm, SPANS, lower=lower)
    with edited_apart(tiny_lm, pairs(edits)):
        together = score(tiny_lm, SPANS, lower=lower, copies=3)
    parts = zip(*(part.chunk(3) for part in together), strict=True)
    for changes, (log_prob, length, greedy, guesses) in zip(edits, parts, strict=True):
        for update in changes:
            edited.apply(update)
        alone = score(tiny_lm, SPANS)
        edited.assign(edited.original)
        torch.testing.assert_close(log_prob, alone.log_prob, rtol=1e-5, atol=1e-4)
        assert torch.equal(length, alone.length)
        assert torch.equal(greedy, alone.greedy)
        assert torch.equal(guesses, alone.guesses)
    assert (together.log_prob[:3] - together.log_prob[3:6]).abs().min() > 1e-3
    assert all(hidden.shape[0] <= len(SPANS) for hidden in lower.kept.values())


def test_weights_are_not_touched_and_no_hook_stays(tiny_gpt2):
    name, module = output_weight_name(tiny_gpt2, 1), output_map(tiny_gpt2, 1)
    before = tiny_gpt2.get_parameter(name).clone()
    with edited_apart(tiny_gpt2, pairs(updates(tiny_gpt2, 2))):
        assert len(module._forward_hooks) == 1
        assert torch.equal(tiny_gpt2.get_parameter(name), before)
    assert not module._forward_hooks


def test_copies_of_an_unedited_model_score_alike_in_small_batches(tiny_llama):
    plain = score(tiny_llama, SPANS)
    copied = score(tiny_llama, SPANS, batching=Batching(12), copies=3)
    torch.testing.assert_close(copied.log_prob, plain.log_prob.repeat(3), rtol=1e-5, atol=1e-4)


def test_terms_have_the_models_precision():
    lm = tiny_model("llama").to(torch.bfloat16)
    with edited_apart(lm, pairs(updates(lm, 2))):
        scores = score(lm, SPANS, copies=2)
    assert torch.isfinite(scores.log_prob).all()
    assert len(blocks(lm)) == 3
