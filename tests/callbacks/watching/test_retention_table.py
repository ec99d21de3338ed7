from callbacks.watching.retention_table import ROWS, retention_sentence, retention_table

LOGGED = {
    "retention/edits": 4.0,
    "retention/efficacy_exact_match": 0.75,
    "retention/efficacy_exact_match_low": 0.25,
    "retention/efficacy_exact_match_high": 1.0,
    "retention/efficacy_magnitude": 0.4,
    "retention/neighborhood": 0.5,
    "retention/neighborhood_token_accuracy": 0.1,
    "retention/ngram_entropy": 5.6789,
    "tasks/squad_exact_match": 0.3,
    "efficacy": 1.0,
}
UNEDITED = {"efficacy_exact_match": 0.0, "neighborhood": 0.6}


def rows(table):
    return [" ".join(line.split()) for line in table.splitlines()]


def test_a_row_holds_the_unedited_and_the_edited_score_and_the_interval():
    assert rows(retention_table(LOGGED, UNEDITED)) == [
        "unedited edited 95 % interval",
        "new answer stated 0.0 % 75.0 % 25.0 % to 100.0 %",
        "neighbors: true answer likelier 60.0 % 50.0 %",
        "ngram_entropy 5.679",
        "tasks/squad_exact_match 30.0 %",
    ]


def test_without_an_edit_there_is_one_column():
    table = rows(retention_table(LOGGED, {}))
    assert table[0] == "unedited 95 % interval"
    assert table[2] == "neighbors: true answer likelier 50.0 %"


def test_no_line_is_wider_than_a_terminal():
    logged = {f"retention/{name}{end}": 1.0 for name in ROWS for end in ("", "_low", "_high")}
    lines = retention_table(logged, dict.fromkeys(ROWS, 1.0)).splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert max(map(len, lines)) <= 80


def test_the_sentence_counts_the_facts_that_are_stated():
    assert retention_sentence(LOGGED, UNEDITED) == (
        "The edited model states 3 of 4 edited facts, the unedited one 0"
    )
    assert retention_sentence(LOGGED, {}) == (
        "Nothing is edited: the unedited model states 3 of 4 new answers"
    )
