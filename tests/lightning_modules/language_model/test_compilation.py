import pytest
import torch

from data_modules.records import EditRequest
from lightning_modules.language_model.compilation import Compilation
from lightning_modules.methods.rome import ROME
from tests.tiny import tiny_editor, tiny_model

REQUESTS = [
    EditRequest(1, "{} plays the", "He", "violin"),
    EditRequest(2, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
    EditRequest(3, "{}", "Paris", "is old"),
    EditRequest(4, "The capital is {}", "Rome", ","),
]


def editors(lm):
    """One that searches uncompiled and one that compiles."""
    plain, compiling = tiny_editor(ROME, lm), tiny_editor(ROME, lm)
    compiling.search.compiled = True
    compiling.search.attach(lm, compiling.tokenizer, compiling.value_layer)
    return plain, compiling


def assert_same(plain, compiling, requests=REQUESTS):
    pairs = zip(plain.seek(requests), compiling.seek(requests), strict=True)
    for (_, expected), (_, found) in pairs:
        assert found.losses == pytest.approx(expected.losses, rel=1e-5)
        torch.testing.assert_close(found.change, expected.change, atol=1e-4, rtol=1e-4)
    assert "forward" not in vars(compiling.lm)


@pytest.mark.slow
def test_a_compiled_search_finds_the_same_values(tiny_lm, compile_by):
    compile_by("eager")
    plain, compiling = editors(tiny_lm)
    assert_same(plain, compiling)
    assert compiling.search.compilation.works


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_one_compilation_serves_texts_of_any_length_and_edited_weights(family, compile_by):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    compile_by(backend)
    plain, compiling = editors(tiny_model(family))
    for request in REQUESTS:
        assert_same(plain, compiling, [request])
        plain.make_edit([request])
    assert len(compiled) == 1


def test_gradients_are_compiled_too(tiny_llama, compile_by):
    compile_by("aot_eager")
    assert_same(*editors(tiny_llama), REQUESTS[:1])


def test_a_search_that_cannot_be_compiled_is_made_uncompiled(tiny_gpt2, compile_by):
    tried = []

    def backend(graph, inputs):
        tried.append(graph)
        raise OSError("no compiler here")

    compile_by(backend)
    plain, compiling = editors(tiny_gpt2)
    with pytest.warns(
        UserWarning, match="from here on, values are searched uncompiled: .*no compiler here"
    ):
        assert_same(plain, compiling)
    assert_same(plain, compiling)
    assert len(tried) == 1


def test_an_error_of_the_search_itself_is_raised(tiny_gpt2):
    compilation = Compilation(tiny_gpt2)

    def search():
        raise RuntimeError("out of memory")

    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(RuntimeError):
        compilation(search)
    assert "forward" not in vars(tiny_gpt2)


@pytest.mark.slow
def test_inductor_finds_the_same_values(tiny_llama):
    torch.compiler.reset()
    plain, compiling = editors(tiny_llama)
    assert_same(plain, compiling)
    assert compiling.search.compilation.works


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32")  # advice that we do not take
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_cuda_graphs_find_the_same_values(family):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.compiler.reset()
    plain, compiling = (editor.to("cuda") for editor in editors(tiny_model(family)))
    for _ in range(3):  # a CUDA graph is recorded at the second call of a shape
        assert_same(plain, compiling)
    assert compiling.search.compilation.works
