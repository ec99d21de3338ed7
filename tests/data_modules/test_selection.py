from data_modules.records import EditRequest
from data_modules.resumable import loader_of
from data_modules.selection import batches_of, doubts, edits_of, first, selection


def request(case_id: int, new: str = "x", joined: bool = False, **fields: str) -> EditRequest:
    known = {"prompt": "{} is", "subject": f"S{case_id}"} | fields
    return EditRequest(case_id, target_new=new, joined=joined, **known)


TWO = [request(1), request(1, joined=True, subject="T")]
ALL = [request(0), *TWO, request(2), request(3)]


def test_requests_of_one_record_are_one_edit() -> None:
    assert edits_of(ALL) == [ALL[:1], TWO, ALL[3:4], ALL[4:]]
    assert first(ALL, 2) == ALL[:3]
    assert batches_of(ALL, 2) == [ALL[:3], ALL[3:]]
    assert list(loader_of(batches_of(ALL, 2))) == [ALL[:3], ALL[3:]]


def test_a_shuffle_leaves_them_together() -> None:
    for seed in range(5):
        shuffled = selection(ALL, None, seed)
        assert sorted(shuffled) == sorted(ALL)
        assert shuffled[shuffled.index(TWO[0]) + 1] == TWO[1]


def test_contradictions_shared_numbers_and_true_answers_are_said() -> None:
    opposed = [request(1, "Rome"), request(2, "Paris", subject="S1")]
    (said,) = doubts(opposed)
    assert "1 prompts are edited to different answers" in said
    assert "cases 1 and 2" in said
    assert "'Rome' and 'Paris'" in said
    (said,) = doubts([request(5), request(5, subject="T")])
    assert said.startswith("1 case numbers stand for several requests, such as 5")
    (said,) = doubts([request(7)._replace(target_true="x")])
    assert "the new answer of 1 requests is the true one, such as that of case 7" in said


def test_sound_requests_raise_no_doubt() -> None:
    assert list(doubts([*ALL, ALL[0]])) == []
