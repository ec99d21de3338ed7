import copy
import json
import math
import pickle
import re
from pathlib import Path

import lightning as L
import pytest
import torch

from callbacks.keeping.dashboard import tag
from lightning_modules.editing import record as module
from lightning_modules.editing.record import (
    EditRecord,
    Field,
    UndeclaredFieldError,
    declare,
    find,
    place_of,
)
from lightning_modules.editing.record_fields import GROUPS
from lightning_modules.language_model.judging import MEASURES
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import REQUESTS, TIMINGS, fit, tiny_lm, watching

ROOT = Path(__file__).resolve().parents[3]
FIELDS = [field for group in GROUPS for field in group.fields]
OWN = Field("neurons", int, "from 0", "Neurons that the edit changes.", "NeuronSparse")


class Writes(L.Callback):
    """Writes a field after every edit."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def on_train_batch_end(self, trainer, pl_module, *args):
        pl_module.record[self.name] = self.value


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture
def declared(monkeypatch):
    """The own fields declared so far, of which those of the test are forgotten behind it."""
    monkeypatch.setattr(module, "OWN", dict(module.OWN))
    return module.OWN


@pytest.mark.parametrize(
    "write",
    [
        lambda record: record.__setitem__("perplexty", 2.0),
        lambda record: record.update({"perplexty": 2.0}),
        lambda record: record.update(perplexty=2.0),
        lambda record: record.__ior__({"perplexty": 2.0}),
        lambda record: record.setdefault("perplexty", 2.0),
        lambda record: EditRecord({"perplexty": 2.0}),
        lambda record: EditRecord([("perplexty", 2.0)]),
    ],
)
def test_an_undeclared_field_is_refused_however_it_is_written(write):
    record = EditRecord({"edit": 1})
    with pytest.raises(KeyError, match="perplexty") as refusal:
        write(record)
    assert refusal.type is UndeclaredFieldError
    assert str(refusal.value).startswith("nobody has declared the field 'perplexty'")
    assert "declare(Field('perplexty', ...)) of lightning_modules.editing.record" in str(
        refusal.value
    )
    assert record == {"edit": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", torch.ones(())),
        ("collapsed", 1),
        ("steps", 2.5),
        ("reason", None),
        ("tasks", [0.5]),
    ],
)
def test_a_value_of_another_type_than_declared_is_refused(name, value):
    with pytest.raises(TypeError, match=f"the field '{name}' of an edit's record must be"):
        EditRecord()[name] = value


def test_a_record_is_a_mapping_that_json_takes():
    record = EditRecord({"edit": 3, "case_id": [4, 5], "perplexity": math.inf})
    record |= {"loss": 1, "reason": "why"}
    record.setdefault("test_prefix", {})["4"] = "So {}"
    assert record.setdefault("loss", 7) == 1
    assert record.pop("reason", None) == "why"
    assert record.pop("reason", None) is None
    assert record.get("status") is None
    same = {
        "edit": 3,
        "case_id": [4, 5],
        "perplexity": math.inf,
        "loss": 1,
        "test_prefix": {"4": "So {}"},
    }
    assert record == same
    assert list(record) == list(same)
    assert json.dumps(record) == json.dumps(same)
    assert type(dict(record)) is type(record | {"any": 1}) is dict
    for again in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record)):
        assert again == record
        assert type(again) is EditRecord


def test_every_mapping_that_a_model_is_given_becomes_a_record():
    editor = ROME()
    editor.record = {"edit": 1}
    kept = editor.record
    with pytest.raises(UndeclaredFieldError):
        editor.record["edits"] = 1
    editor.record |= {"loss": 0.5}
    assert editor.record is kept
    with pytest.raises(UndeclaredFieldError):
        editor.record = {"edits": 1}
    assert editor.record == {"edit": 1, "loss": 0.5}


def test_a_callback_that_writes_an_undeclared_field_ends_the_run(lm, tmp_path):
    with pytest.raises(UndeclaredFieldError, match="'mood'"):
        fit(lm, tmp_path, [*watching(), Writes("mood", 1.0)])
    assert (tmp_path / "edits.jsonl").read_text() == ""


def test_a_plug_in_declares_its_field_and_the_journal_keeps_it(declared, lm, tmp_path):
    declare(OWN)
    run = fit(lm, tmp_path, [*watching(), Writes("neurons", 5)], REQUESTS[:2])
    assert run.column("neurons") == [5, 5]
    assert run.summary["means"]["neurons"] == 5.0
    assert tag("neurons") == "edit/neurons"


def test_a_plug_in_may_declare_a_family_and_declare_it_again(declared):
    family = OWN._replace(name="neurons_LAYER[_MAP]")
    declare(OWN, family)
    declare(OWN._replace(meaning="How many neurons the edit changes."), family)
    assert find("neurons_3_up").field is find("neurons_of").field is family
    assert find("neurons").field.meaning.startswith("How many")
    assert find("neuron") is None


@pytest.mark.parametrize("name", ["loss", "efficacy_before", "neurons"])
def test_a_name_that_another_class_writes_is_refused(declared, name):
    declare(OWN)
    with pytest.raises(ValueError, match=f"already writes the field '{name}'"):
        declare(Field(name, float, "", "Another thing.", "Other"))


def test_every_field_of_a_run_is_declared_once(lm, tmp_path):
    run = fit(lm, tmp_path, watching(), REQUESTS[:1])
    written = {*run.edits[0], *TIMINGS, *MEASURES, *(f"{name}_before" for name in MEASURES)}
    for name in written:
        assert sum(known.pattern.fullmatch(name) is not None for known in module.KEELS) == 1


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("neighborhood_agreement_before", "SCORE_before"),
        ("paraphrase_generation_exact", "PROMPT_generation[_CONTEXT]_exact"),
        ("drift_spectrum", "drift_spectrum[_WEIGHT]"),
        ("drift_spectrum_11_c_proj", "drift_spectrum[_WEIGHT]"),
    ],
)
def test_a_family_has_its_members(name, family):
    assert find(name).field.name == family


@pytest.mark.parametrize(
    "name",
    [
        "portability_magnitude",
        "neighborhood_generation",
        "perplexity_before",
        "drift_norm_c_proj",
        "GROUP_magnitude",
        "",
    ],
)
def test_a_family_has_no_others(name):
    assert find(name) is None
    assert place_of(name) == "edit"


def test_every_writer_is_a_class_of_the_product():
    sources = [f.read_text("utf-8") for p in ("callbacks", "lightning_modules")
               for f in (ROOT / p).rglob("*.py")]  # fmt: skip
    classes = {name for source in sources for name in re.findall(r"^class (\w+)", source, re.M)}
    assert {writer for field in FIELDS for writer in field.writer.split(", ")} <= classes


def test_every_field_says_what_it_is_in_one_sentence():
    assert len({field.name for field in FIELDS}) == len(FIELDS)
    for field in FIELDS:
        assert re.fullmatch(r"[A-Z`][^|\n]*\.", field.meaning)
        assert "|" not in field.unit + field.source
