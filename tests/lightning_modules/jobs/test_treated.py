import pytest
import torch

from data_modules.records import EditRequest, WatchedText
from lightning_modules.jobs.treated import treated
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD
from tests.tiny import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
REQUEST = EditRequest(1, "The capital of {} is", "France", "Rome", "the")


@pytest.fixture
def editor(tmp_path):
    made = ROME(lm=str(save_tiny(tmp_path, "gpt2")), **METHOD)
    made.configure_model()
    made.prepare()
    made.make_edit([REQUEST])
    return made


def test_an_untreated_copy_answers_as_the_edited_model_does(editor):
    copy = treated(editor, "none", [], 1)
    assert copy.lm is not editor.lm
    for name, score in copy.judge(REQUEST).items():
        assert score == pytest.approx(editor.judge(REQUEST)[name], abs=1e-5)


@pytest.mark.parametrize("treatment", ["bfloat16", "int8", "lora"])
def test_a_treatment_changes_the_copy_alone(editor, treatment):
    before = {name: weight.clone() for name, weight in editor.lm.state_dict().items()}
    text = WatchedText([0], ["The capital of France is Rome"])
    plain = treated(editor, "none", [], 1).watch(text).nll
    copy = treated(editor, treatment, ["Rome is the capital of France"], 5)
    assert not torch.equal(copy.watch(text).nll, plain)
    for name, weight in editor.lm.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_copy_reads_texts_at_the_editors_first_position(tmp_path):
    moved = ROME(lm=str(save_tiny(tmp_path, "gpt2")), first_position=1, **METHOD)
    moved.configure_model()
    moved.prepare()
    text = WatchedText([0], ["The capital of France is Rome"])
    copy = treated(moved, "none", [], 1)
    torch.testing.assert_close(copy.watch(text).nll, moved.watch(text).nll)


def test_a_model_without_a_template_cannot_chat(editor):
    with pytest.raises(ValueError, match="chat template"):
        treated(editor, "chat", [], 1)
    with pytest.raises(ValueError, match="'rest' is unknown; choose from"):
        treated(editor, "rest", [], 1)
