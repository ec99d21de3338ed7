import pytest
import torch

from callbacks.keeping.journal import EditJournal
from callbacks.keeping.means import harmonic_score, mean_intervals, mean_scores
from callbacks.watching import edit_metrics
from callbacks.watching.edit_metrics import EditMetrics
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, WEIGHT, data_of, fit, tiny_lm, trainer_in

GROUPS = ("efficacy", "paraphrase", "neighborhood")
AMONG_OTHER_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def retention(run, requests):
    """Scores of ``trainer.test`` on a freshly loaded model with the run's second checkpoint."""
    trainer = trainer_in(run.folder, [EditMetrics()])
    editor = ROME(lm=run.editor.lm_name, **METHOD)
    checkpoint = run.checkpoint(2)
    (found,) = trainer.test(editor, data_of(requests), ckpt_path=checkpoint, verbose=False)
    return found, editor


def test_scores_before_the_first_edit_are_those_of_the_unedited_model(lm, sequential):
    editor = ROME(lm=lm, **METHOD)
    editor.configure_model()
    judged = editor.judge(REQUESTS[0])
    first = sequential.edits[0]
    assert judged == pytest.approx({name: first[f"{name}_before"] for name in judged})
    assert set(judged) >= {*GROUPS, "efficacy_magnitude", "efficacy_token_accuracy"}


def test_scores_after_the_last_edit_are_those_of_the_edited_model(sequential):
    judged = sequential.editor.judge(REQUESTS[3])
    last = sequential.edits[3]
    assert judged == pytest.approx({name: last[name] for name in judged})


def test_an_edit_raises_the_new_answer_over_the_old_one(sequential):
    for number in (0, 1, 3):
        edit = sequential.edits[number]
        assert edit["efficacy_magnitude"] > edit["efficacy_magnitude_before"]


def test_a_request_without_a_true_answer_has_no_efficacy(sequential):
    edit = sequential.edits[2]
    absent = {"efficacy", "efficacy_magnitude", "paraphrase", "paraphrase_magnitude"}
    assert not absent & edit.keys()
    assert {"efficacy_token_accuracy", "paraphrase_token_accuracy"} <= edit.keys()


def test_a_request_without_paraphrases_and_neighbors_has_no_score_of_them(sequential):
    edit = sequential.edits[3]
    assert not [name for name in edit if name.startswith(("paraphrase", "neighborhood"))]
    assert {"efficacy", "efficacy_before"} <= edit.keys()


def test_a_batch_of_requests_is_scored_by_its_mean(lm, tmp_path):
    run = fit(lm, tmp_path, [EditJournal(), EditMetrics()], REQUESTS[:2], limit_val_batches=0)
    data = data_of(REQUESTS[:2])
    data.batch_size = 2
    editor = ROME(lm=lm, **METHOD)
    trainer = trainer_in(tmp_path / "both", [EditJournal(), EditMetrics()], limit_val_batches=0)
    trainer.fit(editor, data)
    (edit,) = run._replace(folder=tmp_path / "both").edits
    expected = mean_scores([editor.judge(request) for request in REQUESTS[:2]])
    assert expected == pytest.approx({name: edit[name] for name in expected})
    assert edit["case_id"] == [10, 11]


def test_agreement_is_with_the_unedited_model_not_with_the_one_before_the_edit(lm, sequential):
    unedited = ROME(lm=lm, **METHOD)
    unedited.configure_model()
    edited = sequential.editor
    spans = [
        target_span(edited.tokenizer, probe.prompt, probe.answer)
        for probe in REQUESTS[0].neighborhood
    ]
    pairs = [(unedited.score([span]).guesses, edited.score([span]).guesses) for span in spans]
    expected = sum(float((old == now).double().mean()) for old, now in pairs) / len(pairs)
    weight = edited.lm.get_parameter(WEIGHT).clone()
    edited.judging.unedited_guesses = {(): []}
    assert edited.judge(REQUESTS[0])["neighborhood_agreement"] == pytest.approx(expected)
    assert torch.equal(edited.lm.get_parameter(WEIGHT), weight)
    assert expected < 1
    assert sequential.edits[0]["neighborhood_agreement_before"] == 1


def test_the_unedited_model_is_asked_once_per_request(sequential, monkeypatch):
    passes = []
    monkeypatch.setattr(sequential.editor.judging, "once", lambda spans: passes.append(spans))
    sequential.editor.judge_all(REQUESTS)
    assert passes == []


@AMONG_OTHER_CALLBACKS
def test_test_judges_exactly_the_edits_that_were_made(sequential):
    found, editor = retention(sequential, REQUESTS)
    assert editor.edited_cases == [10, 11]
    assert found["retention/edits"] == 2
    judged = [editor.judge(request) for request in REQUESTS[:2]]
    expected = mean_scores(judged) | {"score": harmonic_score(mean_scores(judged))}
    expected |= {
        f"{name}_{end}": value
        for name, interval in mean_intervals(judged).items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }
    assert found == pytest.approx(
        {"retention/edits": 2.0} | {f"retention/{name}": v for name, v in expected.items()}
    )
    assert found["retention/efficacy_magnitude_low"] < found["retention/efficacy_magnitude"]
    assert editor.judge(REQUESTS[1]) == pytest.approx(
        {name: sequential.edits[1][name] for name in editor.judge(REQUESTS[1])}
    )


@AMONG_OTHER_CALLBACKS
def test_an_unedited_request_with_the_number_of_an_edited_one_is_not_judged(sequential):
    namesake = REQUESTS[2]._replace(case_id=10)
    found, _ = retention(sequential, [REQUESTS[0], namesake])
    assert found["retention/edits"] == 1


@AMONG_OTHER_CALLBACKS
def test_test_refuses_requests_of_which_none_was_edited(sequential):
    with pytest.raises(ValueError, match="none of the requests is an edit of this checkpoint"):
        retention(sequential, REQUESTS[2:])


def test_test_refuses_the_checkpoint_of_another_model(sequential, tmp_path):
    other = tiny_lm(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"edits of another model than .* name the model it was"):
        trainer_in(tmp_path, [EditMetrics()]).test(
            ROME(lm=other, **METHOD), data_of(), ckpt_path=sequential.checkpoint(2)
        )


def test_a_mean_counts_only_what_has_the_score():
    judged = [{"efficacy": 1.0}, {"efficacy": 0.0, "paraphrase": 0.25}, {"paraphrase": 0.75}, {}]
    assert mean_scores(judged) == {"efficacy": 0.5, "paraphrase": 0.5}
    assert mean_scores([]) == {}


@AMONG_OTHER_CALLBACKS
def test_test_prints_one_table_with_the_unedited_model_and_a_sentence(
    sequential, monkeypatch, capsys
):
    said = []
    monkeypatch.setattr(edit_metrics, "rank_zero_info", said.append)
    trainer = trainer_in(sequential.folder, [metrics := EditMetrics()])
    editor = ROME(lm=sequential.editor.lm_name, **METHOD)
    trainer.test(editor, data_of(REQUESTS), ckpt_path=sequential.checkpoint(2))
    assert "retention/" not in capsys.readouterr().out
    table, sentence = said
    assert "unedited    edited" in table
    assert sentence.startswith("The edited model states ")
    with editor.edited.unedited():
        unedited = mean_scores([editor.judge(request) for request in REQUESTS[:2]])
    unedited |= {"score": harmonic_score(unedited)}
    assert metrics.unedited == pytest.approx(unedited)
    kept = trainer.callback_metrics["retention/efficacy_magnitude"]
    assert float(kept) > metrics.unedited["efficacy_magnitude"]
