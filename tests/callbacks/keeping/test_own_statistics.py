from pathlib import Path

import pytest
import torch

from callbacks.keeping.own_statistics import OwnStatistics, stored
from data_modules.facts import Facts
from lightning_modules.editing.second_moments import load_second_moment
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.hooks import first
from lightning_modules.language_model.layout import output_map
from lightning_modules.methods.memit import MEMIT
from tests.callbacks.runs import REQUESTS, WATCHED, data_of, trainer_in
from tests.tiny import save_tiny

TEXTS = [text for text in WATCHED for _ in range(3)]


class Text(Facts):
    """Facts with a short text."""

    def plain_text(self):
        yield from TEXTS


def edit(folder, texts=TEXTS, **options):
    lm = str(save_tiny(folder / "lm", "llama"))
    data = Text()
    data.plain_text = lambda: iter(texts)
    data.requests, data.watched = REQUESTS[:1], data_of().watched
    value = ValueSearchOptions(steps=1)
    method = MEMIT(lm=lm, layers=[0, 1], contexts={6: 1}, value=value, **options)
    trainer_in(folder, [OwnStatistics(window=6)], limit_val_batches=0).fit(method, data)
    return method


def test_the_second_moment_is_the_mean_over_all_tokens_of_all_pieces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = edit(tmp_path)
    assert method.record["status"] == "applied" or method.edited_requests
    assert Path(method.statistics).parent == Path("cache/own_statistics")
    assert stored(method.statistics, method)
    assert not stored(None, method)
    pieces = []
    for text in TEXTS:
        ids = method.tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces += [ids[at : at + 6] for at in range(0, len(ids), 6)]
    with method.edited.unedited():
        for layer in (0, 1):
            total = sum(moment_of(method, layer, piece) for piece in pieces)
            found = load_second_moment(method.statistics, method.lm_name, method.fingerprint, layer)
            expected = total / sum(map(len, pieces))
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def moment_of(method, layer, tokens):
    """One text's ``Σ k kᵀ``, by a hook."""
    seen = []
    hook = output_map(method.lm, layer).register_forward_pre_hook(
        lambda module, args: seen.append(first(args)[0].double())
    )
    with torch.no_grad():
        method.lm(torch.tensor([tokens]))
    hook.remove()
    return seen[0].T @ seen[0]


def test_statistics_that_are_there_are_used_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(edit(tmp_path).statistics)
    made = file.stat().st_mtime_ns
    assert edit(tmp_path).statistics == str(file)
    assert file.stat().st_mtime_ns == made
    assert edit(tmp_path, statistics=str(file)).statistics == str(file)


def test_an_identity_needs_none_and_too_few_tokens_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert edit(tmp_path, second_moment="identity").statistics is None
    with pytest.raises(ValueError, match=r"the text for .* tokens are too few for keys of width"):
        edit(tmp_path, texts=["Rain is expected."])
