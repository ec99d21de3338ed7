import json

import pytest

from lightning_modules.editing import layer_choice
from lightning_modules.editing.layer_choice import chosen_layer, chosen_layers, keep_result
from lightning_modules.language_model.loading import EMBEDDED, fingerprint
from lightning_modules.methods.emmet import EMMET
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME, ConsistentROME
from lightning_modules.methods.ultra_edit import UltraEdit
from tests.tiny import tiny_model, tiny_tokenizer

LM, MODEL, DEPTH = "some/model", "abcdef0123456789", 30
STUDY = {"layer": 6, "why": "the best of a layer study of 90 edits with ROME"}
TRACE = {"range": [3, 8], "why": "where restored MLPs bring back most"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(monkeypatch):
    """What the user is told."""
    sentences = []
    monkeypatch.setattr(layer_choice, "rank_zero_info", sentences.append)
    return sentences


def chosen(option="auto"):
    return chosen_layer(option, LM, MODEL, DEPTH)


def test_a_named_layer_is_taken_in_silence(said):
    assert chosen(17) == 17
    assert chosen_layers([5, 3, 5], 4, LM, MODEL, DEPTH) == [3, 5]
    assert said == []


def test_auto_is_the_studys_layer_and_says_why(said):
    file = keep_result(LM, MODEL, "study", STUDY)
    assert chosen() == 6
    assert said == [f"layer auto is layer 6: {STUDY['why']} ({file})"]


def test_auto_is_the_middle_of_the_traced_range_without_a_study(said):
    keep_result(LM, MODEL, "trace", TRACE)
    assert chosen() == 5
    assert "the middle of layers 3 to 8, where restored MLPs" in said[0]


@pytest.mark.parametrize("order", [("trace", "study"), ("study", "trace")])
def test_a_study_counts_more_than_a_trace_and_both_are_kept(order):
    for name in order:
        file = keep_result(LM, MODEL, name, {"study": STUDY, "trace": TRACE}[name])
    assert chosen() == 6
    found = json.loads(file.read_text())
    assert (found["study"], found["trace"], found["fingerprint"]) == (STUDY, TRACE, MODEL)


@pytest.mark.parametrize(("width", "layers"), [(1, [6]), (3, [4, 5, 6]), (9, list(range(7)))])
def test_auto_layers_end_at_the_layer_of_auto(width, layers):
    keep_result(LM, MODEL, "study", STUDY)
    assert chosen_layers("auto", width, LM, MODEL, DEPTH) == layers


@pytest.mark.parametrize(
    ("method", "option"),
    [
        (ROME, r"--model\.layer N, about a third .*, or auto after a layer study"),
        (EMMET, r"--model\.layer N"),
        (MEMIT, r"--model\.layers \[N\]"),
        (FineTuning, r"--model\.layers \[N\], about a third of the model's depth \(docs"),
        (UltraEdit, r"--model\.layers \[N\]"),
    ],
)
def test_a_model_of_ones_own_has_no_default_layer(method, option):
    with pytest.raises(ValueError, match=f"{method.__name__} .* 'some/model': give {option}"):
        method(lm=LM)


def test_the_embedded_model_has_default_layers():
    layers = [m().layers for m in (ROME, EMMET, MEMIT, FineTuning, UltraEdit)]
    assert layers == [[1], [1], [1, 2], [1], [1, 2, 3, 4]]
    assert ROME(lm=str(EMBEDDED)).layers == [1]


def test_a_borrowed_model_gives_its_owners_layers_to_a_method_without_any():
    owner, retry = ROME(lm=LM, layer=0), ConsistentROME()
    owner.attach(tiny_model("gpt2"), tiny_tokenizer())
    retry.borrow(owner)
    assert retry.layers == [0]


def test_nothing_stored_is_told_with_the_commands_that_store_something():
    with pytest.raises(FileNotFoundError, match=r"layer-study\.yaml --model\.lm some/model.*trace"):
        chosen()


def test_another_models_result_is_refused():
    file = keep_result(LM, MODEL, "study", STUDY)
    file.write_text(file.read_text().replace(MODEL, "fedcba"))
    with pytest.raises(ValueError, match=r"other weights than 'some/model'; delete it"):
        chosen()


@pytest.mark.parametrize("text", ["{", "[]", '{"fingerprint": "abcdef0123456789"}'])
def test_a_damaged_file_is_refused_and_replaced(text):
    file = keep_result(LM, MODEL, "study", STUDY)
    file.write_text(text)
    with pytest.raises(ValueError, match="holds no layer study or trace"):
        chosen()
    keep_result(LM, MODEL, "trace", TRACE)
    assert chosen() == 5


def test_a_layer_that_the_model_does_not_have_is_refused():
    keep_result(LM, MODEL, "study", STUDY | {"layer": 30})
    with pytest.raises(ValueError, match="names layer 30, but 'some/model' has 30"):
        chosen()


class TestMethods:
    """Methods that leave their layer open."""

    @pytest.fixture
    def studied(self, tiny_gpt2):
        """A model whose layer study has found layer 2."""
        model = fingerprint(tiny_gpt2, tiny_tokenizer())
        keep_result("tiny", model, "study", {"layer": 2, "why": "the best"})
        return tiny_gpt2

    @pytest.mark.parametrize(
        ("make", "layers"),
        [
            (lambda: ROME("auto", lm="tiny"), [2]),
            (lambda: EMMET("auto", lm="tiny"), [2]),
            (lambda: MEMIT(layers="auto", lm="tiny"), [0, 1, 2]),
        ],
    )
    def test_auto_is_looked_up_when_the_model_is_attached(self, studied, make, layers):
        editor = make()
        editor.attach(studied, tiny_tokenizer())
        assert (editor.layers, editor.lowest_layer(), editor.value_layer) == (layers, layers[0], 2)

    def test_auto_without_a_result_is_refused_with_the_commands(self, tiny_gpt2):
        with pytest.raises(FileNotFoundError, match=r"layer auto: nothing is stored for 'tiny'"):
            ROME("auto", lm="tiny").attach(tiny_gpt2, tiny_tokenizer())

    def test_layers_that_cannot_share_a_residual_become_one(self, studied, monkeypatch):
        monkeypatch.setattr(MEMIT, "values_add_up", False)
        editor = MEMIT(layers="auto", lm="tiny")
        editor.attach(studied, tiny_tokenizer())
        assert editor.layers == [2]

    def test_a_retry_left_open_takes_the_last_layers_of_the_method_that_it_repeats(self, studied):
        owner, retry = MEMIT(layers=[0, 1], lm="tiny"), ROME("usual", lm="tiny")
        owner.attach(studied, tiny_tokenizer())
        retry.borrow(owner)
        assert retry.layers == [1]


def test_usual_is_the_stored_layer_or_else_a_third_of_the_depth(said):
    assert chosen("usual") == 10
    assert chosen_layers("usual", 5, LM, MODEL, DEPTH) == [8, 9, 10]
    assert chosen_layers("usual", 1, LM, MODEL, DEPTH) == [10]
    assert chosen_layers("usual", 5, LM, MODEL, 6) == [1, 2]  # the embedded model's
    assert "layer usual is 8, 9, 10 of 30: up to a third of the depth" in said[1]
    assert "predict --config trace.yaml --model.lm some/model" in said[1]
    keep_result(LM, MODEL, "study", STUDY)
    assert chosen("usual") == 6
    assert chosen_layers("usual", 5, LM, MODEL, DEPTH) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("depth", [1, 2])
def test_usual_needs_layers_above_the_third(depth):
    with pytest.raises(ValueError, match=f"'some/model' has {depth} layers, too few for an edit"):
        chosen_layers("usual", 5, LM, MODEL, depth)


@pytest.mark.parametrize(
    ("method", "option"),
    [(ROME, "layer=N"), (MEMIT, r"layers=\[N\]"), (FineTuning, r"layers=\[N\]")],
)
def test_a_model_in_memory_has_no_default_layer_either(method, option):
    asked = rf"no default layer in 'this model': give {option}, about a third of the 3 layers"
    with pytest.raises(ValueError, match=asked):
        method().attach(tiny_model("gpt2"), tiny_tokenizer())
