import json

import lightning as L
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from callbacks.studies.hard_edit_file import HardEditFile
from data_modules.edit_requests import EditingDataModule
from data_modules.records import EditRequest
from lightning_modules.jobs.hard_edit import SEED_POINT, HardEditBuilder
from tests.tiny import VOCABULARY, tiny_tokenizer

EXAMPLES = [
    EditRequest(1, "{} is located in", "Arthur", "California", "Illinois"),
    EditRequest(2, "{}, created by", "Minecraft", "IBM", "Microsoft"),
    EditRequest(3, "{} owner", "Flickr", "Houston", "Yahoo"),
]


def point(subject, **changes):
    names = {"prompt": f"{subject} is made of", "subject": subject}
    return names | {"target_new": "wood", "ground_truth": "glass"} | changes


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A random model that reads long texts and follows no instruction."""
    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 2048}
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def predict(builder, folder, **options):
    data = EditingDataModule(**options)
    data.requests, data.watched = EXAMPLES, [(0, "Rain.")]
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[HardEditFile()],
        default_root_dir=folder,
    )
    trainer.predict(builder, datamodule=data)
    return json.loads((folder / "hard_edit.json").read_text())


class Scripted(HardEditBuilder):
    """A builder whose model has its answers ready, and whose instructions are kept."""

    def script(self, *answers):
        self.script_left, self.told = list(answers), []
        return self

    def answer(self, instruction):
        self.told.append(instruction)
        self.asked += 1
        return self.script_left.pop(0)


def test_good_data_points_are_kept_and_bad_ones_counted(lm, tmp_path):
    good = [point("Bridge"), point("Window")]
    answers = [
        json.dumps([good[0], point("New York"), good[0]]),
        "No.",
        f"Here you are: {json.dumps(good[1])}, {json.dumps(point('River'))[:-3]}",
    ]
    builder = Scripted(lm, answers=1).script(*answers)
    assert predict(builder, tmp_path) == good
    assert dict(builder.faults) == {
        "subject not one word": 1,
        "subject not new": 1,
        "no JSON object in the answer": 1,
        "broken JSON": 1,
    }


def test_the_model_sees_examples_and_which_subjects_are_used_up(lm, tmp_path):
    builder = Scripted(lm, answers=2).script(json.dumps(point("Bridge")), "")
    predict(builder, tmp_path, batch_size=3)
    first, second = builder.told
    for example in (SEED_POINT, {"prompt": "Arthur is located in"}):
        assert json.dumps(example).strip("{}") in first
    assert 'excluded_subjects: ["arthur", "flickr", "minecraft", "thunder"]' in first
    assert '"bridge"' not in first
    assert '"bridge"' in second


def test_an_example_is_no_data_point(lm, tmp_path):
    builder = Scripted(lm, answers=2).script(json.dumps(SEED_POINT), json.dumps(point("Bridge")))
    assert predict(builder, tmp_path, batch_size=3) == [point("Bridge")]


def test_no_more_is_asked_than_is_wanted(lm, tmp_path):
    many = json.dumps([point(word) for word in ("Bridge", "Window", "Door")])
    builder = Scripted(lm, number=2).script(many)
    assert predict(builder, tmp_path) == [point("Bridge"), point("Window")]
    assert len(builder.told) == 1


def test_subjects_are_offered_until_they_are_used(lm):
    builder = Scripted(lm, subjects=["Bridge", "Window"])
    builder.used.add("bridge")
    assert "You may take subjects from: Window\n" in builder.instruction([SEED_POINT])
    assert "You may take" not in Scripted(lm).instruction([SEED_POINT])


def test_a_model_that_follows_no_instruction_is_told_off(lm, tmp_path):
    builder = HardEditBuilder(lm, answers=1, new_tokens=5, dtype="float32")
    with pytest.raises(ValueError, match=r"no data point can be used \(3 x no JSON object in the"):
        predict(builder, tmp_path)
    assert not (tmp_path / "hard_edit.json").exists()


def test_sampling_depends_on_the_seed_alone(lm):
    def written(seed, noise):
        builder = HardEditBuilder(lm, seed=seed, new_tokens=8, dtype="float32")
        builder.configure_model()
        torch.manual_seed(noise)
        return [builder.answer("The river is"), builder.answer("The river is")]

    assert written(0, 1) == written(0, 2)
    assert written(0, 1) != written(1, 1)
    assert len(set(written(0, 1))) == 2


def test_a_chat_template_is_used_where_there_is_one(lm):
    builder = HardEditBuilder(lm, new_tokens=1, dtype="float32")
    builder.configure_model()
    builder.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<me>"
    )
    heard = []
    builder.lm.generate = lambda **told: heard.append(told) or told["input_ids"]
    builder.answer("Hello.")
    assert builder.tokenizer.decode(heard[0]["input_ids"][0]) == "<user>Hello.<me>"
    assert heard[0]["max_new_tokens"] == 1


def test_an_instruction_longer_than_the_window_is_refused(lm):
    builder = HardEditBuilder(lm, dtype="float32")
    builder.configure_model()
    with pytest.raises(ValueError, match="take a model with a longer window, or fewer examples"):
        builder.answer("river " * 2100)


@pytest.mark.parametrize("name", ["number", "answers", "new_tokens", "temperature"])
def test_sizes_must_be_positive(lm, name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        HardEditBuilder(lm, **{name: 0})
