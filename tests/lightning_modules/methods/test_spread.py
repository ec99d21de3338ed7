import pytest
import torch

from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.passes import recording
from lightning_modules.methods.batch import seek_batch
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.spread import SpreadEditor
from tests.batches import KINDS, REQUESTS, TOKENIZER, ready, values_of, weights
from tests.tiny import CONTEXTS, tiny_model


def spread_editor(lm, layers=(0, 1, 2), contexts=CONTEXTS) -> SpreadEditor:
    return ready(MEMIT(1e-9, layers=layers, lm="tiny"), lm, contexts)


def test_layers_together_take_the_whole_residual(tiny_gpt2):
    editor = spread_editor(tiny_gpt2, contexts=["{}"])
    wanted = values_of(editor, REQUESTS)
    shares = []
    missing = [float("nan")]
    fit = editor.system.fit

    def noted(layer, keys, residuals, history):
        shares.append(float(residuals.norm()))
        return fit(layer, keys, residuals, history)

    editor.system.fit = noted
    for update in editor.edit(REQUESTS):
        editor.apply_update(update)
        now = torch.stack([located.values[0] for located in editor.locate(REQUESTS)])
        missing.append(float((torch.stack([*wanted.values()]) - now).norm()))
    editor.restore()
    assert shares[1] == pytest.approx(missing[1] / 2, rel=1e-3)
    assert shares[2] == pytest.approx(missing[2], rel=1e-3)
    assert missing[3] < 1e-3 * shares[0]


def test_upper_layer_sees_the_change_of_the_lower_one():
    editor = spread_editor(tiny_model("gpt2"))
    sought = seek_batch(editor, REQUESTS)
    before, _ = editor.states(2, sought)
    next(updates := editor.edit(REQUESTS))
    same, _ = editor.states(2, sought)
    torch.testing.assert_close(before, same)
    for number, update in enumerate(editor.edit(REQUESTS)):
        editor.apply_update(update)
        if number == 0:
            after, _ = editor.states(2, sought)
    assert (after - before).norm() > 1e-2 * before.norm()
    updates.close()


def test_each_kind_of_context_weighs_the_same(tiny_gpt2):
    editor = spread_editor(tiny_gpt2)
    keys = torch.randn(5, 3, 48, generator=torch.Generator().manual_seed(0))
    expected = (keys[:, 0] / 2 + keys[:, 1] / 4 + keys[:, 2] / 4).T
    torch.testing.assert_close(editor.mean_keys(keys), expected)
    editor.contexts.lengths = {5: 1, 10: 1}
    torch.testing.assert_close(editor.mean_keys(keys), keys.mean(1).T)


def test_keys_of_the_value_layer_are_recorded_only_once(tiny_lm):
    single = ready(MEMIT(layers=[1], lm="tiny"), tiny_lm)
    sought = seek_batch(single, REQUESTS)
    keys, values = single.states(1, sought)
    if single.values_add_up:
        single.layers = [0, 1]
        again, values_again = single.states(1, sought)
        torch.testing.assert_close(keys, again, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values, values_again, rtol=1e-4, atol=1e-4)
    assert keys.shape == (48, 4)
    assert values.shape == (32, 4)


def test_requests_are_read_in_as_many_parts_as_memory_asks_for(tiny_gpt2):
    editor = spread_editor(tiny_gpt2)
    sought = seek_batch(editor, REQUESTS)
    together = editor.states(0, sought)
    editor.search.together = 3
    for one, other in zip(together, editor.states(0, sought), strict=True):
        torch.testing.assert_close(one, other)


def test_method_takes_its_authors_contexts():
    assert MEMIT(layers=[1], lm="tiny").contexts.lengths == {10: 5}
    assert MEMIT(layers=[1], lm="tiny", contexts=KINDS).contexts.lengths == KINDS


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_layers_with_a_norm_behind_them_cannot_share_a_residual(family):
    lm = tiny_model(family)
    with pytest.raises(ValueError, match=r"layers \[0, 1\] of 'gemma.*; give a single layer"):
        ready(MEMIT(layers=[0, 1], lm="tiny"), lm)
    editor = ready(MEMIT(1e-3, layers=[1], lm="tiny"), lm)
    before = weights(editor)
    editor.make_edit(REQUESTS)
    assert editor.record["status"] == "applied"
    assert not torch.equal(weights(editor)[0], before[0])


def test_layers_are_edited_from_the_lowest_up(tiny_gpt2):
    editor = ready(MEMIT(layers=[2, 0], lm="tiny"), tiny_gpt2)
    assert (editor.layers, editor.value_layer, editor.lowest_layer()) == ([0, 2], 2, 0)
    with pytest.raises(ValueError, match="layers is empty"):
        MEMIT(layers=[], lm="tiny")


def test_identity_has_the_size_of_the_second_moment_of_text(tiny_gpt2):
    editor = ready(MEMIT(7.0, layers=[1], lm="tiny", second_moment="identity"), tiny_gpt2)
    squares = []
    for text in editor.contexts.templates[1:]:
        tokens = torch.tensor([TOKENIZER(text.removesuffix(" {}"))["input_ids"]])
        with recording({"map": output_map(tiny_gpt2, 1)}) as seen:
            tiny_gpt2(tokens)
        squares.append(seen["map"][0].reshape(tokens.shape[1], -1)[1:].square())
    expected = float(torch.cat(squares).mean())
    assert editor.mean_square(1) == pytest.approx(expected, rel=1e-5)
    assert editor.system.initial[1].weight == pytest.approx(7.0 * expected, rel=1e-5)


def test_identity_without_contexts_takes_its_size_from_text_like_theirs(tiny_gpt2):
    editor = ready(MEMIT(7.0, layers=[1], lm="tiny", second_moment="identity"), tiny_gpt2, ["{}"])
    assert editor.mean_square(1) > 0
    assert editor.mean_square(1) == editor.mean_square(1)
