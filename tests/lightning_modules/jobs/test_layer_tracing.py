import pytest
import torch

from callbacks.studies.layer_trace import LayerTrace
from data_modules.records import EditRequest
from lightning_modules.functional.causal_trace import LAST_SUBJECT, ROLES
from lightning_modules.jobs.layer_tracing import LayerTracing
from lightning_modules.language_model.tracing import KINDS, subject_embeddings, trace
from tests.callbacks.runs import data_of, trainer_in
from tests.tiny import LAYERS, tiny_model, tiny_tokenizer

KNOWN = [
    EditRequest(1, "The capital of {} is", "France", "Rome", "the"),
    EditRequest(2, "{} plays", "Danielle Vinson", "Rome", "the"),
]
UNKNOWN = EditRequest(3, "{} lived in", "Mary", "Rome", "Athens")
SILENT = EditRequest(4, "{} wrote", "Peter", "Rome")


def knowing():
    """A random model that mostly says `` the``, more or less probably."""
    lm, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    (the,) = tokenizer(" the")["input_ids"]
    lm.transformer.ln_f.bias += 8 * lm.transformer.wte.weight[the]
    return lm, tokenizer


def tracing(**options):
    module = LayerTracing(lm="tiny", **options)
    module.attach(*knowing())
    return module


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The tracer, and what it says of two facts it knows and two it does not."""
    module = tracing(samples=3)
    folder = tmp_path_factory.mktemp("trace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        batches = trainer_in(folder, [LayerTrace()]).predict(
            module, data_of([*KNOWN, UNKNOWN, SILENT])
        )
    return module, [row for batch in batches for row in batch]


def test_only_facts_that_the_model_states_are_traced(predicted):
    assert [row["known"] for row in predicted[1]] == [True, True, False, False]
    assert predicted[1][2] == {"case_id": 3, "known": False}


def test_effects_have_a_row_per_role_and_a_column_per_layer(predicted):
    for row in predicted[1][:2]:
        assert 0 < row["corrupted"] < 1
        assert set(row["effects"]) == set(KINDS)
        for effects in row["effects"].values():
            assert effects.shape == (len(ROLES), LAYERS)
            assert effects[LAST_SUBJECT].isfinite().all()


def test_noise_is_three_deviations_of_all_subjects_embeddings(predicted):
    module = predicted[0]
    facts = module.facts([*KNOWN, UNKNOWN, SILENT])
    assert len(facts) == 3  # one has no true answer
    deviation = subject_embeddings(module.lm, facts).std(correction=0)
    assert module.deviation == pytest.approx(float(deviation))
    drawn = torch.cat([module.noise_of(KNOWN[1]._replace(case_id=n), facts[1]) for n in range(50)])
    assert float(drawn.std()) == pytest.approx(3 * float(deviation), rel=0.02)


def test_a_facts_trace_does_not_depend_on_the_others(predicted):
    module, rows = predicted
    (fact,) = module.facts(KNOWN[1:])
    found = trace(module.lm, fact, module.noise_of(KNOWN[1], fact), 1, range(LAYERS))
    assert rows[1]["clean"] == pytest.approx(found.clean)
    hidden = rows[1]["effects"]["hidden"][LAST_SUBJECT]
    torch.testing.assert_close(hidden, found.effects["hidden"][:, fact.last])


def test_the_card_says_how_noise_was_drawn(predicted):
    card = predicted[0].card()
    assert card["noise"]["multiple"] == 3.0
    assert card["noise"]["samples"] == 3
    assert (card["window"], card["layers"]) == (1, [0, 1, 2])
    assert tracing(window=2, stride=2).card()["layers"] == [0, 2]


@pytest.mark.parametrize("name", ["noise", "samples", "window", "stride"])
def test_a_number_that_means_nothing(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        LayerTracing(**{name: 0})
