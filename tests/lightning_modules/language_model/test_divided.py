import pytest

from lightning_modules.editing.replicas import Place
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.divided import Divided
from lightning_modules.methods.rome import ROME
from tests.batches import REQUESTS
from tests.processes import on_both
from tests.tiny import tiny_editor, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
STEPS = {"steps": 6, "kl_weight": 1.0, "goal": 0.0}


def searched(editor, place, **options):
    editor.search.options = ValueSearchOptions(**STEPS, **options)
    editor.share = place
    return [(found.change.tolist(), found.losses) for _, found in editor.seek(REQUESTS[:1])]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3_moe"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_two_devices_find_the_same_change_as_one(family, optimizer, tmp_path):
    editor = tiny_editor(ROME, tiny_model(family))
    first, second = on_both(
        lambda place: searched(editor, place, divided=True, optimizer=optimizer), tmp_path
    )
    ((change, losses),) = first
    assert change == second[0][0]
    assert losses == second[0][1]
    ((alone, told),) = searched(editor, Place(), optimizer=optimizer)
    assert losses == pytest.approx(told, rel=1e-5)
    assert change == pytest.approx(alone, rel=1e-3, abs=1e-5)


def test_a_device_without_a_context_still_takes_part(tmp_path):
    editor = tiny_editor(ROME, tiny_model("gpt2"))
    editor.contexts.templates = ["{}"]
    first, second = on_both(lambda place: searched(editor, place, divided=True), tmp_path)
    ((alone, _),) = searched(editor, Place())
    assert first == second
    assert first[0][0] == pytest.approx(alone, rel=1e-3, abs=1e-5)


def test_contexts_take_turns_and_each_device_has_the_essence_prompt():
    assert [Divided(rank, 3).texts(6) for rank in range(3)] == [[0, 3, 5], [1, 4, 5], [2, 5]]
    assert Divided().texts(3) == [0, 1, 2]


def test_a_device_alone_asks_itself():
    def answers(change, numbers):
        raise AssertionError

    assert Divided().joined(answers) is answers
