import pytest
from huggingface_hub.errors import HfHubHTTPError

from lightning_modules.language_model import hub_models
from lightning_modules.language_model.hub_models import look_up_model


class Hub:
    """Counts the questions, and answers with an error."""

    def __init__(self, error):
        self.error, self.asked = error, []

    def model_info(self, name, timeout):
        self.asked.append((name, timeout))
        raise self.error


@pytest.fixture
def hub(monkeypatch):
    """Puts a hub in the place of the real one."""

    def put(error):
        made = Hub(error)
        monkeypatch.setattr(hub_models, "HfApi", lambda: made)
        monkeypatch.setattr(hub_models, "is_offline_mode", lambda: False)
        return made

    return put


@pytest.mark.parametrize(
    "name", ["./lm", "~/lm", "/no/lm", "models/a/b", "lm.safetensors", "my lm", "lm/config.JSON"]
)
def test_what_can_only_be_a_path_is_refused_without_a_question(name, hub):
    made = hub(TimeoutError())
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        look_up_model(name)
    assert made.asked == []


@pytest.mark.parametrize(
    "name", ["gpt2", "Qwen/Qwen3-0.6B", "openai/whisper-tiny.en", "a/opt-1.3b"]
)
def test_a_hub_that_does_not_answer_is_waited_for_once_and_briefly(name, hub):
    made = hub(TimeoutError())
    with pytest.raises(ConnectionError, match="does not answer"):
        look_up_model(name)
    assert made.asked == [(name, hub_models.SECONDS)]


def test_what_the_hub_answers_is_left_to_the_loader(hub):
    hub(HfHubHTTPError.__new__(HfHubHTTPError))
    look_up_model("nobody/nothing")


def test_a_folder_and_a_cached_model_need_no_hub(hub, tmp_path, monkeypatch):
    made = hub(TimeoutError())
    look_up_model(str(tmp_path))
    monkeypatch.setattr(hub_models, "try_to_load_from_cache", lambda *file: "/cache/config.json")
    look_up_model("org/lm")
    assert made.asked == []


def test_offline_nothing_is_asked(hub, monkeypatch):
    made = hub(TimeoutError())
    monkeypatch.setattr(hub_models, "is_offline_mode", lambda: True)
    look_up_model("org/lm")
    assert made.asked == []
