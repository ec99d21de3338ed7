from callbacks.keeping.edit_texts import MOST, described, table

ONE = {
    "edit": 1,
    "prompt": "The capital of {} is",
    "subject": "Peru",
    "target_true": "Lima",
    "target_new": "Rome",
    "status": "applied",
    "perplexity": 30.0,
    "efficacy_exact_match": 1.0,
    "says_before": "Lima, a\ncity",
    "says": "Rome | *and*",
}


def test_an_edit_tells_what_was_asked_and_what_the_model_says():
    first, _, before, after = described(ONE).split("\n")
    assert first == ("**The capital of {} is** · Peru · Lima → **Rome** (applied; perplexity 30)")
    assert before == "- before: The capital of Peru is *Lima, a city*"
    assert after == "- after: The capital of Peru is *Rome &#124; &#42;and&#42;*"


def test_an_edit_that_nobody_asked_about_tells_its_request_alone():
    asked = {name: value for name, value in ONE.items() if not name.startswith("says")}
    assert described(asked) == described(ONE).split("\n")[0]


def test_an_edit_of_several_requests_tells_the_first():
    names = ("prompt", "subject", "target_true", "target_new")
    several = (
        ONE | {name: [ONE[name]] * 6 for name in names} | {"says": ["Rome"], "says_before": []}
    )
    parts = described(several).split("\n\n")
    assert parts[-1] == "and 2 more"
    assert sum(part.startswith("- after:") for part in parts) == 1
    assert len(table([several]).splitlines()) == 2 + 6


def test_the_table_has_a_row_for_each_request_and_its_outcome():
    undone = ONE | {"edit": 2, "status": "rolled_back"}
    lost = ONE | {"edit": 3, "efficacy_exact_match": 0.0, "collapsed": True}
    rows = table([ONE, undone, lost, {"edit": 4}]).splitlines()[2:]
    ends = [row.split("|")[-2] for row in rows]
    assert ends == ["stated", "rolled back", "not stated, collapsed"]
    assert rows[0].startswith("|1|The capital of Peru is …|Rome|Lima, a city|Rome &#124;")


def test_a_long_run_shows_its_first_requests():
    shown = table([ONE] * (MOST + 2))
    assert shown.endswith(f"The first {MOST} of {MOST + 2} requests.")
    assert shown.count("Lima") == MOST
