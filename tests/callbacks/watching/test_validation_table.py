import math

import pytest

from callbacks.watching.validation_table import ROWS, validation_sentence, validation_table

UNEDITED = {"perplexity": 193.655, "log_perplexity": 5.266, "perplexity_pooled": 169.463}
EDITED = {"tasks/piqa": 0.65, "log_perplexity": 5.3, "perplexity": 201.25}


def rows(table):
    return [" ".join(line.split()) for line in table.splitlines()]


def test_an_unedited_models_figures_stand_in_one_column():
    assert rows(validation_table(UNEDITED, {})) == [
        "unedited",
        "perplexity, mean of the watched texts 193.7",
        "perplexity, all their tokens together 169.5",
        "logarithm of the first row 5.266",
    ]


def test_an_edited_models_stand_beside_the_unedited_ones_that_are_known():
    assert rows(validation_table(UNEDITED, EDITED)) == [
        "unedited edited",
        "perplexity, mean of the watched texts 193.7 201.2",
        "logarithm of the first row 5.266 5.3",
        "tasks/piqa 65.0 %",
    ]


def test_no_line_is_wider_than_a_terminal():
    whole = dict.fromkeys(ROWS, 123456.7)
    assert max(map(len, validation_table(whole, whole).splitlines())) <= 80


@pytest.mark.parametrize(
    ("perplexity", "limit", "end"),
    [
        (201.25, 968.3, ", the unedited one's 193.7: no collapse, below 968.3"),
        (1e5, 968.3, ", the unedited one's 193.7: a collapse, above 968.3"),
        (math.inf, math.inf, ", the unedited one's 193.7: a collapse, above inf"),
        (201.25, None, ", the unedited one's 193.7"),
    ],
)
def test_the_sentence_says_whether_the_model_has_collapsed(perplexity, limit, end):
    said = validation_sentence(UNEDITED, {"perplexity": perplexity}, limit)
    assert said == f"The edited model's perplexity is {perplexity:.4g}{end}"


def test_the_sentence_says_no_more_than_is_known():
    told = "Nothing is edited: the unedited model's perplexity is 193.7"
    assert validation_sentence(UNEDITED, {}, None) == told
    told = "The edited model's perplexity is 201.2"
    assert validation_sentence({}, EDITED, 900.0) == told
