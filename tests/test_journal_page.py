from docs.journal import PAGE, page
from lightning_modules.editing.record_fields import GROUPS


def test_the_page_is_what_the_declaration_gives():
    assert PAGE.read_text("utf-8") == page(), "run make docs"


def test_the_page_has_a_row_for_every_field():
    rows = [line.split(" | ")[0] for line in page().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{field.name}`" for group in GROUPS for field in group.fields]
