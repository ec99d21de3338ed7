from statistics import fmean

import pytest
import torch

from data_modules.embedded import embedded_requests
from data_modules.records import EditRequest
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.buckets import PAST, SUFFIX, TARGET, bucket, evened, remaining
from lightning_modules.language_model.loading import load_unweighted
from lightning_modules.language_model.tokens import located_span
from lightning_modules.language_model.values import record_requests, search_values
from tests.lightning_modules.language_model.test_values import REQUESTS, TOKENIZER
from tests.tiny import CONTEXTS, EDITED_LAYER, OPTIONS, tiny_model


@pytest.mark.parametrize(
    ("length", "least", "rounded"),
    [(1, 1, 1), (5, 1, 8), (3, 4, 4), (6, 6, 6), (7, 6, 12), (13, 6, 24)],
)
def test_a_length_is_rounded_up_to_a_double_of_the_least(length, least, rounded):
    assert bucket(length, least) == rounded


def test_texts_get_equally_many_places_and_none_twice():
    places = [(0, 2, 7, 1), (0, 3, 8, 1), (0, 4, 9, 1), (2, 0, 7, 1)]
    found = list(evened(places, 5))
    assert [place for place in found if place[3]] == places
    assert {row: sum(place[0] == row for place in found) for row in (0, 2)} == {0: 4, 2: 4}
    assert len({place[:2] for place in found}) == len(found)
    assert all(0 <= place[1] < 5 for place in found)


def test_a_pass_shrinks_only_by_halves():
    assert remaining([0, 2, 3], [0, 1, 2, 3]) == [0, 2, 3, 1]
    assert remaining([2, 3], [0, 2, 3, 1]) == [2, 3]


@pytest.mark.parametrize("options", [OPTIONS, ValueSearchOptions(steps=6, kl_weight=1.0)])
def test_a_search_in_rounded_shapes_finds_the_same(tiny_lm, options):
    plain, rounded = (
        record_requests(tiny_lm, TOKENIZER, EDITED_LAYER, CONTEXTS, REQUESTS, rounds)
        for rounds in (False, True)
    )
    padded = plain.suffixes.past.layers[-1].keys, rounded.suffixes.past.layers[-1].keys
    assert [keys.shape[2] for keys in padded] == [plain.suffixes.positions[:, 0].max(), 32]
    assert len(rounded.rows) > len(plain.rows)
    torch.testing.assert_close(rounded.values, plain.values, rtol=1e-6, atol=1e-6)
    pairs = (search_values(tiny_lm, EDITED_LAYER, part, options) for part in (plain, rounded))
    for one, other in zip(*pairs, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-5, abs=1e-6)
        assert float((one.change - other.change).norm() / one.change.norm()) < 1e-4


def test_requests_that_are_done_leave_by_halves_unnoticed(tiny_gpt2):
    plain, rounded = (
        record_requests(tiny_gpt2, TOKENIZER, EDITED_LAYER, CONTEXTS, REQUESTS, rounds)
        for rounds in (False, True)
    )
    free = search_values(tiny_gpt2, EDITED_LAYER, plain, OPTIONS)
    middle = fmean(sorted(found.losses[3] for found in free)[1:3])  # nobody's own loss
    options = ValueSearchOptions(
        steps=6, weight_decay=0.02, clamp=20.0, goal=middle, stop="most_probable", patience=9
    )
    pairs = (search_values(tiny_gpt2, EDITED_LAYER, part, options) for part in (plain, rounded))
    lengths = set()
    for one, other in zip(*pairs, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-5)
        lengths.add(len(one.losses))
    assert len(lengths) > 1


def test_a_target_that_is_probable_at_its_own_places_ends_a_search(tiny_gpt2):
    options = ValueSearchOptions(steps=40, weight_decay=0.0, clamp=50.0, stop="most_probable")
    requests = [EditRequest(6, "{}", "He", "is"), REQUESTS[2]]
    plain, rounded = (
        record_requests(tiny_gpt2, TOKENIZER, EDITED_LAYER, CONTEXTS, requests, rounds)
        for rounds in (False, True)
    )
    pairs = (search_values(tiny_gpt2, EDITED_LAYER, part, options) for part in (plain, rounded))
    for one, other in zip(*pairs, strict=True):
        assert len(one.losses) == len(other.losses)
    assert len(rounded.rows) > len(plain.rows)
    assert 1 < len(other.losses) < 41 > len(one.losses)


def shape(tokenizer, request, contexts):
    """Tokens from the subject on, before it, and of the target: the most in any context."""
    spans = [located_span(tokenizer, request, context) for context in contexts]
    sizes = ((len(s.tokens) - 1 - s.subject, s.subject, len(s.tokens) - s.start) for s in spans)
    return tuple(map(max, zip(*sizes, strict=True)))


def test_all_embedded_requests_need_a_few_shapes():
    _, tokenizer = load_unweighted("embedded")
    contexts = ["{}", "When the two of them came home late. {}"]
    requests = embedded_requests()
    plain = [shape(tokenizer, request, contexts) for request in requests]
    least = SUFFIX, PAST, TARGET
    rounded = [tuple(map(bucket, lengths, least)) for lengths in plain]
    assert (len(set(plain)), len(set(rounded))) == (119, 3)
    lm = tiny_model("gpt2", vocab_size=len(tokenizer), n_layer=2, n_embd=8)
    for lengths in set(rounded):
        request = requests[rounded.index(lengths)]
        found = record_requests(lm, tokenizer, 0, contexts, [request], True)
        past = found.suffixes.past.layers[1].keys.shape[2]
        assert (found.suffixes.tokens.shape[1], past, len(found.rows) // 2) == lengths
