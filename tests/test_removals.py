from docs.removals import Removed, table


def test_the_table_has_a_row_per_method_and_way():
    rows = [
        Removed("alpha_edit", 1, "again", 0.0, 1.0, 200.0),
        Removed("c_rome", 2, "subtract", 0.5, 0.5, 210.0),
        Removed("c_rome", 1, "subtract", 0.1, 1.0, 200.0),
        Removed("c_rome", 3, "subtract", 0.2, 1.0, 220.0),
    ]
    assert list(table(rows))[2:] == [
        "| c_rome | `subtract` | 3 | 0.2 | 0.5 | 83.3 % | 210.0 |",
        "| alpha_edit | `again` | 1 | 0 | 0 | 100.0 % | 200.0 |",
    ]
