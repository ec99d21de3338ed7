import pytest
import torch

from callbacks.keeping.edit_ledger import EditLedger
from lightning_modules.jobs.compare import Compare
from lightning_modules.jobs.replay import Replay
from lightning_modules.language_model.generation import generate
from lightning_modules.language_model.loading import load
from tests.callbacks.runs import WEIGHT, FailsAtHugo, fit, tiny_lm
from tests.tiny import save_tiny, tiny_tokenizer

PROMPTS = ["Paris is the capital of", "Miles Davis plays the", "The Nile flows through Egypt and"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    """Four edits, of which the second fails."""
    folder = tmp_path_factory.mktemp("run")
    return fit(lm, folder, [EditLedger()], method=FailsAtHugo, limit_val_batches=0)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    run.editor.lm.save_pretrained(folder)
    run.editor.tokenizer.save_pretrained(folder)
    return str(folder)


def compared(lm, run, left, right, **options):
    module = Compare(str(run.folder), left, right, max_new_tokens=6, lm=lm, **options)
    module.configure_model()
    return module


def weights(module):
    """The edited weight of each side, as it is while the side is continued."""
    found = []
    for side in module.sides:
        module.continued(side, PROMPTS)
        found.append((module.lm if isinstance(side, list) else side).get_parameter(WEIGHT).clone())
    return found


def replayed(lm, run, **options):
    replay = Replay(str(run.folder), lm=lm, **options)
    replay.configure_model()
    replay.rebuild(replay.chosen())
    return replay.lm.get_parameter(WEIGHT)


def test_each_side_is_the_model_it_names(lm, run, exported):
    original, edited = weights(compared(lm, run, "original", "edited"))
    assert torch.equal(original, run.editor.original[WEIGHT])
    assert torch.equal(edited, run.weight)
    third, but = weights(compared(lm, run, 3, "without 3"))
    assert torch.equal(third, replayed(lm, run, until=3))
    assert torch.equal(but, replayed(lm, run, without=[3]))
    several, saved = weights(compared(lm, run, "without 1, 4", exported))
    assert torch.equal(several, replayed(lm, run, only=[3]))
    assert torch.equal(saved, run.weight)


def test_edited_is_what_the_options_of_a_replay_leave(lm, run):
    _, edited = weights(compared(lm, run, "original", "edited", until=3, without=[1]))
    assert torch.equal(edited, replayed(lm, run, only=[3]))


def test_both_sides_continue_the_prompts_greedily(lm, run, exported):
    module = compared(lm, run, "original", exported)
    rows = module.predict_step(PROMPTS, 0)
    assert [row["prompt"] for row in rows] == PROMPTS
    for side, folder in (("left", lm), ("right", exported)):
        texts = generate(*load(folder), PROMPTS, [], 6)
        assert [row[side] for row in rows] == [text.strip() for text in texts]


def test_an_exported_model_says_what_the_replayed_one_says(lm, run, exported):
    rows = compared(lm, run, "edited", exported).predict_step(PROMPTS, 0)
    assert all(row["left"] == row["right"] for row in rows)


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("9", r"no edit 9\b.* 4"),
        ("without 2", r"edits \[2\] are not in the ledger"),
        ("withuot 3", "left is 'withuot 3', but a side is original, edited, an edit's number"),
        ("nowhere/lm", "left is 'nowhere/lm', but a side is"),
    ],
)
def test_a_side_that_is_none_is_refused(lm, run, side, said):
    with pytest.raises(ValueError, match=said):
        compared(lm, run, side, "edited")


def test_a_model_of_another_architecture_or_tokenizer_is_refused(lm, run, tmp_path):
    other = str(save_tiny(tmp_path / "llama", "llama"))
    with pytest.raises(ValueError, match="llama has an architecture other than"):
        compared(lm, run, other, "edited")
    folder = tmp_path / "renamed"
    load(lm)[0].save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    with pytest.raises(ValueError, match="renamed has a tokenizer other than"):
        compared(lm, run, str(folder), "edited")


def test_a_folder_without_a_ledger_is_refused(lm, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no ledger; give a run's folder"):
        Compare(str(tmp_path), lm=lm).configure_model()


def test_continuations_that_leave_no_room_for_a_prompt_are_refused(lm, run):
    module = Compare(str(run.folder), max_new_tokens=128, lm=lm)
    with pytest.raises(ValueError, match="max_new_tokens must be positive and leave room"):
        module.configure_model()
