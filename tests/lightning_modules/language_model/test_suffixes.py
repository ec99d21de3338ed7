import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.passes import recording
from lightning_modules.language_model.suffixes import Suffixes, record_suffixes, suffix_logits
from lightning_modules.language_model.tokens import collate
from tests.lightning_modules.language_model.test_passes import TEXTS, hooks
from tests.tiny import LAYERS, WINDOW, tiny_model

CPU = torch.device("cpu")
SUBJECTS = [0, 7, 5, 3]  # the first token, beyond a window, the last token, an ordinary place
PLACES = [(row, at) for row, s in enumerate(SUBJECTS) for at in range(len(TEXTS[row]) - s)]
ROWS, COLUMNS = torch.tensor(PLACES).T


def naive_logits(lm: PreTrainedModel, layer: int, change: Tensor) -> Tensor:
    """Logits of each text, run alone and whole, its subject's value changed by a plain hook."""
    results = []
    for text, subject, delta in zip(TEXTS, SUBJECTS, change, strict=True):
        place = F.one_hot(torch.tensor(subject), len(text)).float()
        added = torch.outer(place, delta)
        handle = output_map(lm, layer).register_forward_hook(
            lambda module, args, output, added=added: output + added.view_as(output)
        )
        results.append(lm(torch.tensor([text])).logits[0, subject:])
        handle.remove()
    return torch.cat(results)


def recorded(lm: PreTrainedModel, layer: int) -> Suffixes:
    return record_suffixes(lm, layer, collate(TEXTS, CPU), torch.tensor(SUBJECTS))


def test_texts_are_longer_than_the_window():
    assert all(len(text) > WINDOW for text in TEXTS)
    assert max(SUBJECTS) > WINDOW


@pytest.mark.parametrize("layer", range(LAYERS))
def test_unchanged_suffix_has_the_logits_of_the_whole_text(tiny_lm, layer):
    suffixes = recorded(tiny_lm, layer)
    ours = suffix_logits(tiny_lm, layer, suffixes, torch.zeros(4, 32), ROWS, COLUMNS)
    whole = [
        tiny_lm(torch.tensor([text])).logits[0, subject:]
        for text, subject in zip(TEXTS, SUBJECTS, strict=True)
    ]
    torch.testing.assert_close(ours, torch.cat(whole), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_changed_suffix_equals_a_whole_pass_with_a_hook(tiny_lm, layer):
    generator = torch.Generator().manual_seed(layer)
    change = torch.randn(4, 32, generator=generator).requires_grad_()
    weights = torch.randn(len(PLACES), tiny_lm.config.vocab_size, generator=generator)

    suffixes = recorded(tiny_lm, layer)
    ours = suffix_logits(tiny_lm, layer, suffixes, change, ROWS, COLUMNS)
    naive = naive_logits(tiny_lm, layer, change)
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)

    (ours_gradient,) = torch.autograd.grad((ours * weights).sum(), [change])
    (naive_gradient,) = torch.autograd.grad((naive * weights).sum(), [change])
    scale = float(naive_gradient.abs().max())
    torch.testing.assert_close(ours_gradient, naive_gradient, atol=1e-5 * scale, rtol=1e-5)


def test_change_reaches_the_logits(tiny_lm):
    suffixes, at_subject = recorded(tiny_lm, 0), torch.zeros(4, dtype=torch.long)
    change = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    still, moved = (
        suffix_logits(tiny_lm, 0, suffixes, delta, torch.arange(4), at_subject)
        for delta in (torch.zeros(4, 32), change)
    )
    assert (still - moved).abs().amax(-1).min() > 0.1


def test_recorded_keys_and_values_are_those_at_the_subject(tiny_lm):
    suffixes = recorded(tiny_lm, 1)
    for row, (text, subject) in enumerate(zip(TEXTS, SUBJECTS, strict=True)):
        with recording({"map": output_map(tiny_lm, 1)}) as seen:
            tiny_lm(torch.tensor([text]))
        key, value = (part.reshape(len(text), -1)[subject] for part in seen["map"])
        torch.testing.assert_close(suffixes.keys[row], key, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(suffixes.values[row], value, atol=1e-5, rtol=1e-5)


def test_passes_leave_the_model_untouched(tiny_lm):
    state = {name: value.clone() for name, value in tiny_lm.state_dict().items()}
    before, logits = list(hooks(tiny_lm)), tiny_lm(torch.tensor(TEXTS[:1])).logits
    suffix_logits(tiny_lm, 2, recorded(tiny_lm, 2), torch.ones(4, 32), ROWS, COLUMNS)
    assert list(hooks(tiny_lm)) == before
    assert torch.equal(tiny_lm(torch.tensor(TEXTS[:1])).logits, logits)
    assert all(torch.equal(value, state[name]) for name, value in tiny_lm.state_dict().items())


def test_suffix_of_a_bfloat16_model_follows_a_float32_change():
    lm = tiny_model("llama").to(torch.bfloat16)
    change = torch.ones(4, 32, requires_grad=True)
    ours = suffix_logits(lm, 1, recorded(lm, 1), change, ROWS, COLUMNS)
    assert ours.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(ours.float().logsumexp(-1).sum(), [change])
    assert gradient.dtype == torch.float32
    assert gradient.abs().min() > 0
