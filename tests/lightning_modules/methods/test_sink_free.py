import pytest
import torch

from data_modules.records import EditRequest
from lightning_modules.functional.rank_one import factorize
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.passes import recording
from lightning_modules.methods.rome import FullyConsistentROME
from lightning_modules.methods.sink_free import SinkFreeROME
from tests.tiny import EDITED_LAYER, tiny_editor, tiny_tokenizer

FIRST = EditRequest(7, "{} plays the", "He", "violin")
LATER = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin")
REQUESTS = pytest.mark.parametrize("request_", [FIRST, LATER], ids=["first", "later"])


def random_moment():
    keys = torch.randn(48, 200, generator=torch.Generator().manual_seed(0))
    return keys @ keys.T / 200


def key_at_zero(lm, text):
    """The key of a text's first token, in a pass of its own."""
    tokens = tiny_tokenizer()(text, return_tensors="pt")["input_ids"]
    with recording({"map": output_map(lm, EDITED_LAYER)}) as seen, torch.no_grad():
        lm(tokens)
    return seen["map"][0].reshape(tokens.shape[1], -1)[0]


def editor_of(lm, estimated):
    editor = tiny_editor(SinkFreeROME, lm)
    editor.factors = {EDITED_LAYER: factorize(random_moment()) if estimated else None}
    return editor


def test_the_sink_is_the_mean_key_of_the_contexts_first_tokens(tiny_lm):
    editor = tiny_editor(SinkFreeROME, tiny_lm)
    firsts = [key_at_zero(tiny_lm, text) for text in ("The river is long.", "You and I.")]
    torch.testing.assert_close(editor.sink, torch.stack(firsts).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimated", [True, False])
@REQUESTS
def test_an_edit_adds_the_change_to_its_key_and_nothing_to_the_sink(tiny_lm, request_, estimated):
    editor = editor_of(tiny_lm, estimated)
    ((located, found),) = editor.seek([request_])
    key, module = located.keys[1:].mean(0), output_map(tiny_lm, EDITED_LAYER)
    before = module(key), module(editor.sink)
    editor.apply_update(editor.update(located, found))
    after = module(key), module(editor.sink)
    editor.restore()
    torch.testing.assert_close(after[0] - before[0], found.change, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after[1], before[1], rtol=1e-3, atol=1e-3)


def test_its_value_is_the_mean_behind_prefixes_and_bounds_the_search(tiny_lm):
    editor, plain = editor_of(tiny_lm, False), tiny_editor(FullyConsistentROME, tiny_lm)
    (own,), (other,) = editor.locate([LATER]), plain.locate([LATER])
    torch.testing.assert_close(own.values[0], other.values[1:].mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.values[1:], other.values[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.keys, other.keys, rtol=1e-4, atol=1e-5)
    editor.search.options = ValueSearchOptions(steps=4, learning_rate=1e4, clamp=0.3)
    ((located, found),) = editor.seek([LATER])
    assert float(found.change.norm()) == pytest.approx(0.3 * float(located.values[0].norm()))


def test_a_plain_context_alone_is_recorded_as_it_is(tiny_gpt2):
    editor = editor_of(tiny_gpt2, False)
    (alone,), (all_of_them,) = editor.locate([LATER], ["{}"]), editor.locate([LATER])
    torch.testing.assert_close(alone.keys[0], all_of_them.keys[0])
    assert alone.values.isfinite().all()


def test_without_the_sinks_part_it_is_the_fully_consistent_edit(tiny_gpt2):
    editor = editor_of(tiny_gpt2, estimated=False)
    ((located, found),) = editor.seek([LATER])
    other = tiny_editor(FullyConsistentROME, tiny_gpt2)
    key = located.keys[1:].mean(0).double()
    editor.sink = torch.linalg.qr(torch.stack([key, editor.sink.double()], 1)).Q[:, 1]
    own, plain = editor.update(located, found), other.update(located, found)
    torch.testing.assert_close(own.dense(), plain.dense(), rtol=1e-4, atol=1e-6)


@REQUESTS
def test_its_denominator_is_foretold(tiny_gpt2, request_):
    editor = editor_of(tiny_gpt2, estimated=True)
    list(editor.edit([request_]))
    (risk,) = editor.predict_step([request_], 0)
    for figure in ("denominator", "denominator_relative"):
        assert risk[figure] == pytest.approx(editor.record[figure])


def test_it_needs_a_prefixed_context(tiny_gpt2):
    with pytest.raises(ValueError, match="SinkFreeROME takes its keys from prefixed contexts"):
        tiny_editor(SinkFreeROME, tiny_gpt2, ["{}"])
