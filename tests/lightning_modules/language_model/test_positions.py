import sys
from copy import deepcopy

import pytest
import torch
from transformers import DynamicCache

from data_modules.records import EditRequest
from lightning_modules.editing.second_moments import load_second_moment
from lightning_modules.language_model.context_sampling import sample_contexts
from lightning_modules.language_model.loading import artefact_file, fingerprint
from lightning_modules.language_model.positions import begin_at, longest_text
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.tokens import target_span, text_span
from lightning_modules.language_model.values import record_requests, search_values
from lightning_modules.methods.rome import ROME
from tests.families import tiny_of
from tests.tiny import CONTEXTS, EDITED_LAYER, OPTIONS, tiny_editor, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = ("The river is long and the lake is old", "Paris is the capital of France")
REQUEST = EditRequest(7, "{} is the capital of", "Paris", "Italy", "France")


@pytest.fixture
def lm(family):
    """A model of each family, to be hooked."""
    return tiny_model(family)


def by_hand(lm, tokens):
    """Logits ``(t, v)`` of one text whose first two tokens are told to be both at position 1."""
    positions = torch.tensor([[1, *range(1, len(tokens))]])
    mask = torch.ones_like(positions)
    return lm(torch.tensor([tokens]), attention_mask=mask, position_ids=positions).logits[0]


def test_every_pass_of_a_model_begins_at_the_second_position(lm, family):
    plain = tiny_model(family)
    begin_at(lm, 1)
    tokens = [text_span(TOKENIZER, text).tokens for text in TEXTS]
    for row in tokens:
        expected = by_hand(plain, row)
        asked = torch.tensor([row])
        assert (plain(asked).logits[0] - expected).abs().max() > 1e-4
        torch.testing.assert_close(lm(asked).logits[0], expected)  # neither mask nor positions
        ones = torch.ones_like(asked)
        torch.testing.assert_close(lm(asked, attention_mask=ones).logits[0], expected)
        given = {"attention_mask": ones, "position_ids": torch.arange(len(row))[None]}
        torch.testing.assert_close(lm(asked, **given).logits[0], expected)
        hidden = lm.base_model(asked, **given).last_hidden_state
        last = plain.base_model(asked, attention_mask=ones, position_ids=given["position_ids"])
        assert not torch.allclose(hidden, last.last_hidden_state, atol=1e-4)


def test_scores_and_found_values_are_those_of_positions_given_by_hand(lm, family):
    begin_at(lm, 1)
    span = target_span(TOKENIZER, "Paris is the capital of", "Italy")
    logits = by_hand(tiny_model(family), span.tokens).double().log_softmax(-1)
    expected = sum(float(logits[n - 1, span.tokens[n]]) for n in range(span.start, len(span[0])))
    assert float(score(lm, [span]).log_prob) == pytest.approx(expected, rel=1e-5)

    moved, recorded = tiny_model(family), []
    moved.register_forward_pre_hook(lambda *call: by_two(call), with_kwargs=True)
    moved.base_model.register_forward_pre_hook(lambda *call: by_two(call), with_kwargs=True)
    for model in (lm, moved):
        record = record_requests(model, TOKENIZER, EDITED_LAYER, CONTEXTS, [REQUEST])
        recorded.append((record, search_values(model, EDITED_LAYER, record, OPTIONS)[0]))
    (ours, found), (theirs, sought) = recorded
    torch.testing.assert_close(ours.suffixes.keys, theirs.suffixes.keys)
    torch.testing.assert_close(found.change, sought.change, atol=1e-4, rtol=1e-3)


def by_two(call):
    """Zero positions become one: what a careless hook does where all positions are given."""
    kwargs = call[2]
    positions = kwargs["position_ids"].clone()
    positions[positions == 0] = 1
    return call[1], kwargs | {"position_ids": positions}


def test_a_learned_first_position_has_the_embedding_of_the_second():
    lm, changed = tiny_model("gpt2"), tiny_model("gpt2")
    begin_at(lm, 1)
    changed.transformer.wpe.weight[0] = changed.transformer.wpe.weight[1]
    tokens = torch.tensor([text_span(TOKENIZER, TEXTS[0]).tokens])
    torch.testing.assert_close(lm(tokens).logits, changed(tokens).logits)


def test_a_text_continued_with_a_cache_goes_on_where_it_stood(lm, family):
    expected = by_hand(tiny_model(family), text_span(TOKENIZER, TEXTS[0]).tokens)
    begin_at(lm, 1)
    tokens = torch.tensor([text_span(TOKENIZER, TEXTS[0]).tokens])
    cache = DynamicCache()
    first = lm(tokens[:, :3], past_key_values=cache, use_cache=True).logits[0]
    rest = lm(tokens[:, 3:], past_key_values=cache, use_cache=True).logits[0]
    torch.testing.assert_close(torch.cat([first, rest]), expected)


def test_positions_come_back_and_a_copy_has_its_own(tiny_gpt2):
    lm = deepcopy(tiny_gpt2)
    tokens = torch.tensor([text_span(TOKENIZER, TEXTS[0]).tokens])
    before = lm(tokens).logits
    begin_at(lm, 1)
    copy = deepcopy(lm)
    begin_at(lm, 0)
    assert torch.equal(lm(tokens).logits, before)
    assert not torch.allclose(copy(tokens).logits, before, atol=1e-4)
    assert fingerprint(lm, TOKENIZER) == fingerprint(tiny_gpt2, TOKENIZER)


def test_an_untouched_model_has_no_hook(tiny_gpt2):
    lm = deepcopy(tiny_gpt2)
    begin_at(lm, 0)
    assert not hasattr(lm, "first_position")


def test_contexts_of_such_a_model_are_its_own(tiny_gpt2):
    lm = deepcopy(tiny_gpt2)
    drawn = []
    for position in (0, 1):
        begin_at(lm, position)
        generator = torch.Generator().manual_seed(0)
        drawn.append(sample_contexts(lm, TOKENIZER, {6: 3}, generator))
    assert drawn[0] != drawn[1]


def test_what_is_made_under_it_is_told_apart(tiny_gpt2):
    lm = deepcopy(tiny_gpt2)
    plain = fingerprint(lm, TOKENIZER)
    begin_at(lm, 1)
    model = fingerprint(lm, TOKENIZER)
    assert model == f"{plain}-first-position-1"
    assert artefact_file("kind", None, "embedded", model) != artefact_file(
        "kind", None, "embedded", plain
    )
    with pytest.raises(FileNotFoundError, match=r"--model.first_position 1, or leave them out"):
        load_second_moment(None, "embedded", model, 1)


def test_an_editor_takes_it_from_its_argument():
    lm = tiny_model("gpt2")
    editor = ROME(lm="tiny", layer=EDITED_LAYER, second_moment="identity", first_position=1)
    editor.attach(lm, TOKENIZER)
    assert lm.first_position == 1
    tiny_editor(ROME, lm)  # another editor of the same model, without the argument
    assert lm.first_position == 0


@pytest.mark.parametrize("position", [-1, 128])
def test_a_position_that_the_model_does_not_know_is_refused(tiny_gpt2, position):
    with pytest.raises(ValueError, match=rf"first_position must be in \[0, 128\).*got {position}"):
        begin_at(deepcopy(tiny_gpt2), position)


@pytest.mark.filterwarnings("ignore")
def test_longest_text_is_what_the_text_part_has_positions_for():
    assert longest_text(tiny_model("gpt2")) == 128
    assert longest_text(tiny_of("gemma3")) == 128
    assert longest_text(tiny_of("mpt")) == 128
    assert longest_text(tiny_of("bloom")) == sys.maxsize


def test_position_of_a_model_without_positions_cannot_be_moved():
    begin_at(tiny_of("bloom"), 0)
    with pytest.raises(ValueError, match=r"'bloom' takes no positions .* got 1"):
        begin_at(tiny_of("bloom"), 1)
