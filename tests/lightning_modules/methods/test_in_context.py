from copy import deepcopy

import pytest
import torch

from data_modules.records import EditRequest, Probe
from lightning_modules.methods.in_context import FACTS, InContext
from tests.batches import TOKENIZER

PARIS = EditRequest(
    1, "{} is the capital of", "Paris", "Peru", "France", ("The seat of Paris is",),
    (Probe("London is the capital of", "England"),),
)  # fmt: skip
VIOLIN = EditRequest(2, "{} plays the", "Mary", "violin", "piano", ("On stage Mary plays",))


def ready(lm, **options):
    editor = InContext(lm="tiny", **options)
    editor.attach(deepcopy(lm), TOKENIZER)
    return editor


def prompts(request):
    return [request.text, *request.paraphrases, *(probe.prompt for probe in request.neighborhood)]


def test_before_any_edit_nothing_is_put_before_a_prompt(tiny_gpt2):
    assert ready(tiny_gpt2).worded(PARIS) == PARIS


def test_its_own_fact_is_put_before_every_prompt_of_a_request(tiny_gpt2):
    editor = ready(tiny_gpt2)
    editor.make_edit([VIOLIN])
    editor.make_edit([PARIS])
    fact = "Paris is the capital of Peru. "
    assert prompts(editor.worded(PARIS)) == [fact + prompt for prompt in prompts(PARIS)]
    assert editor.worded(VIOLIN).text == "Mary plays the violin. Mary plays the"


def test_bm25_finds_each_prompt_a_fact_among_all_so_far(tiny_gpt2):
    editor = ready(tiny_gpt2, retrieve="bm25")
    for request in (PARIS, VIOLIN):
        editor.make_edit([request])
    worded = editor.worded(PARIS._replace(paraphrases=("On stage Mary plays", "Nobody knows")))
    assert worded.text == "Paris is the capital of Peru. Paris is the capital of"
    assert worded.paraphrases == ("Mary plays the violin. On stage Mary plays", "Nobody knows")
    assert worded.neighborhood[0].prompt.startswith("Paris is the capital of Peru. London")


def test_bm25_ranks_as_its_formula_does(tiny_gpt2):
    """Robertson's sum over the words of the query, in Lucene's variant, one document at a time."""
    texts = ["Paris lies in Peru", "Paris, Paris and London", "Mary plays violin in Paris"]
    editor = ready(tiny_gpt2, retrieve="bm25", template="{prompt} {answer}")
    for number, text in enumerate(texts):
        prompt, _, answer = text.rpartition(" ")
        editor.make_edit([EditRequest(number, prompt, "", answer)])

    def words(text):
        return [w for w in text.lower().replace(",", "").split() if w not in {"in", "and"}]

    documents = [words(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)

    def score(query, document):
        total = 0.0
        for word in set(words(query)):
            holding = sum(word in other for other in documents)
            rarity = torch.tensor(1 + (len(texts) - holding + 0.5) / (holding + 0.5)).log().item()
            count = document.count(word)
            total += rarity * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
        return total

    for query in ("Peru lies where", "who plays violin", "London and Paris", "Paris"):
        best = max(texts, key=lambda text: score(query, documents[texts.index(text)]))
        worded = editor.worded(EditRequest(9, query, "", "x"))
        assert worded.prompt == best + query


def test_the_facts_are_undone_and_saved_with_the_history(tiny_gpt2):
    editor = ready(tiny_gpt2)
    editor.make_edit([PARIS])
    editor.make_edit([VIOLIN])
    editor.undo()
    assert list(editor.facts) == [PARIS.identity]
    checkpoint = {"state_dict": editor.state_dict()}
    editor.on_save_checkpoint(checkpoint)
    other = ready(tiny_gpt2)
    other.on_load_checkpoint(checkpoint)
    assert other.worded(PARIS) == editor.worded(PARIS)
    editor.restore()
    assert FACTS not in editor.history
    assert editor.worded(PARIS) == PARIS


def test_the_fact_reaches_the_judgement(tiny_lm):
    editor = ready(tiny_lm)
    before = editor.judge(PARIS)
    editor.make_edit([PARIS])
    after = editor.judge(PARIS)
    assert after["efficacy_magnitude"] != before["efficacy_magnitude"]
    plain = PARIS._replace(
        prompt="Paris is the capital of Peru. {} is the capital of", paraphrases=(), neighborhood=()
    )
    editor.restore()
    assert editor.judge(plain)["efficacy_magnitude"] == pytest.approx(after["efficacy_magnitude"])


def test_a_template_without_a_place_for_the_answer_is_refused():
    with pytest.raises(ValueError, match=r"template must hold \{prompt\} and \{answer\}, got"):
        InContext(template="{prompt}")
