import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks.watching.sayings import Sayings
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, fit, watching


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    callbacks = [*watching(), Sayings(first_edits=3, new_tokens=4)]
    return fit(lm, tmp_path_factory.mktemp("sayings"), callbacks)


def test_the_first_edits_tell_what_the_model_says(run):
    assert [type(said) for said in run.column("says")] == [str, str, str, type(None)]
    assert run.edits[0]["says"] != run.edits[0]["says_before"]


def test_the_words_before_the_first_edit_are_the_unedited_models(lm, run):
    tokenizer, model = AutoTokenizer.from_pretrained(lm), AutoModelForCausalLM.from_pretrained(lm)
    prompt = run.editor.worded(REQUESTS[0]).text
    tokens = tokenizer(prompt, return_tensors="pt")
    said = model.generate(**tokens, max_new_tokens=4, do_sample=False)[
        0, tokens.input_ids.shape[1] :
    ]
    told = tokenizer.decode(said, skip_special_tokens=True).split("\n")[0].strip()
    assert run.edits[0]["says_before"] == told


def test_of_an_edit_of_several_requests_the_first_are_asked(lm):
    editor = ROME(lm=lm, **METHOD | {"contexts": {}})
    editor.configure_model()
    editor.record = {"edit": 1}
    Sayings(requests=2, new_tokens=2).ask(editor, REQUESTS, "says")
    assert len(editor.record["says"]) == 2


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="must be positive, got 24, 0 and 4"):
        Sayings(new_tokens=0)
