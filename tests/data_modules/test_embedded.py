from data_modules.embedded import embedded_requests, embedded_sentences


def test_requests_are_many_and_varied() -> None:
    requests = embedded_requests()
    assert len(requests) >= 600
    assert len({request.prompt for request in requests}) >= 20
    assert len({request.case_id for request in requests}) == len(requests)


def test_requests_with_a_one_word_subject_in_front_abound() -> None:
    short = [
        request
        for request in embedded_requests()
        if request.prompt.startswith("{}") and len(request.subject.split()) == 1
    ]
    assert len(short) >= 120


def test_every_request_is_complete() -> None:
    for request in embedded_requests():
        assert request.prompt.count("{}") == 1
        assert request.subject == request.subject.strip() != ""
        assert request.target_new == request.target_new.strip() != ""
        assert request.target_new != request.target_true != ""
        assert len(request.paraphrases) == 2
        assert all(request.subject in text for text in request.paraphrases)
        assert len(request.neighborhood) >= 5


def test_neighbors_never_mention_the_subject() -> None:
    mentions = [
        (request.subject, probe.prompt)
        for request in embedded_requests()
        for probe in request.neighborhood
        if request.subject in probe.prompt
    ]
    assert mentions == []


def test_requests_are_the_same_every_time() -> None:
    assert embedded_requests() == embedded_requests()


def test_sentences_are_distinct_texts() -> None:
    sentences = embedded_sentences()
    assert len(sentences) >= 100
    assert len(set(sentences)) == len(sentences)
    assert all(sentence.strip() for sentence in sentences)
