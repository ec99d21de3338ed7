import gc
import os

gc.disable()  # see train.py

# Before any other import: these libraries read their environment when they are first imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import matplotlib

matplotlib.use("Agg")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tqdm.std import TqdmDefaultWriteLock
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from command_line.smollm2 import FOLDER, fetch
from tests.tiny import FAMILIES, MIXTURES, tiny_model, tiny_tokenizer

gc.freeze()
gc.enable()
COMPILE = torch.compile
torch.set_num_threads(1)  # the models are tiny
TqdmDefaultWriteLock.mp_lock = None  # else forked processes share it, and a killed one keeps it


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data of the papers, which lies beside the repository on some machines only."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, which is absent here: {folder}")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The folder of a real language model, fetched where it is not there yet and can be."""
    folder = Path(__file__).resolve().parents[1] / FOLDER
    try:
        fetch(folder)
    except ConnectionError as error:
        pytest.skip(f"needs SmolLM2: {error}")
    return str(folder)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family of language models that can be edited."""
    return request.param


@pytest.fixture(scope="session")
def tiny_lm(family: str) -> PreTrainedModel:
    """A random model of each family; tests that edit it put its weights back."""
    return tiny_model(family)


@pytest.fixture(scope="session", params=MIXTURES)
def mixture(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A random mixture of experts of each kind; tests that edit it put its weights back."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def tiny_gpt2() -> PreTrainedModel:
    """One random model, where the family does not matter."""
    return tiny_model("gpt2")


@pytest.fixture(scope="session", params=[False, True], ids=["plain", "bos"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """The tiny models' tokenizer, without and with a special token before each text."""
    return tiny_tokenizer(request.param)


@pytest.fixture(scope="session")
def tiny_llama() -> PreTrainedModel:
    """One random model of the Llama family."""
    return tiny_model("llama")


@pytest.fixture
def compile_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Puts another backend in inductor's place, which takes long."""

    def replace(backend):
        torch.compiler.reset()

        def compiled(forward, *, mode, **options):
            assert mode == "reduce-overhead"
            return COMPILE(forward, backend=backend, **options)

        monkeypatch.setattr(torch, "compile", compiled)

    yield replace
    torch.compiler.reset()
