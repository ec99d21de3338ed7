import json

import pytest

from data_modules.embedded import embedded_requests
from data_modules.facts import Facts


def facts(tmp_path, *records: dict[str, str]) -> Facts:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(records))
    data = Facts(path=str(file))
    data.setup("fit")
    return data


def fact(prompt: str, target: str, subject: str = "Oslo") -> dict[str, str]:
    return {"prompt": prompt, "subject": subject, "target_new": target}


def test_facts_that_contradict_each_other_are_refused(tmp_path) -> None:
    agreeing = [
        fact("Oslo lies in", "Peru"),
        fact("Oslo speaks", "Latin"),
        fact("Oslo lies in", "Peru"),
    ]
    assert len(facts(tmp_path, *agreeing).requests) == 3
    with pytest.raises(
        ValueError, match="cases 0 and 2 complete 'Oslo lies in' with 'Peru' and 'M"
    ):
        facts(tmp_path, *agreeing[:2], fact("Oslo lies in", "Mali"))


def test_an_example_is_ten_of_the_embedded_facts():
    for options, count in (({}, 10), ({"limit": 12}, 12), ({"case_ids": [*range(11)]}, 11)):
        data = Facts(**options)
        data.setup("fit")
        assert [request.case_id for request in data.requests] == [*range(count)]


def test_controls_ask_once_per_relation_about_other_subjects(tmp_path) -> None:
    known = embedded_requests()[0]
    probes = facts(tmp_path, fact(known.text, "jam", known.subject)).control_probes()
    assert len(probes) == len({request.prompt for request in embedded_requests()})
    assert known.text not in [probe.prompt for probe in probes]
    answers = {request.text: request.target_true for request in embedded_requests()}
    assert all(answers[probe.prompt] == probe.answer for probe in probes)


def test_the_plain_text_has_the_sentences_and_each_fact_in_every_wording() -> None:
    texts = list(Facts().plain_text())
    known = embedded_requests()
    assert f"{known[0].text} {known[0].target_true}." in texts
    assert len(texts) == 220 + sum(1 + len(request.paraphrases) for request in known)
