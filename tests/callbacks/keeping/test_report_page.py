import re
from html.parser import HTMLParser

from callbacks.keeping.report_page import html, markdown
from callbacks.keeping.report_sections import Cell, Section

SECTIONS = [
    Section("A <b>", ["One & two."], ("x", "y"), [(Cell("1|2"), Cell("<i>", True))], "run <x>"),
    Section("B", ["Alone."]),
    Section("C", [], ("x",), [(Cell("", False),)]),
]


class Tags(HTMLParser):
    """Checks that tags are closed in order; collects the texts."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_whole_escaped_and_needs_no_network():
    page = html("T & t", "All <well>.", SECTIONS)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.links == []
    assert "http" not in page
    assert "url(" not in page
    for text in ("T & t", "All <well>.", "A <b>", "One & two.", "1|2", "<i>", "run <x>", "Alone."):
        assert text in tags.texts


def test_a_cell_names_its_column_and_bears_its_mark():
    page = html("t", "h", SECTIONS)
    assert '<td data-column="y" class="good"><div><span class="mark">✓ </span>&lt;i&gt;' in page
    assert '<td data-column="x" class="bad"><div><span class="mark">✗ </span>-</div>' in page
    assert page.count("<table>") == 2


def test_a_bad_outcome_is_coloured():
    assert '<p class="headline good">All well.' in html("t", "All well.", [])
    assert '<p class="headline bad">Lost.' in html("t", "Lost.", [], good=False)


def test_markdown_says_the_same():
    text = markdown("T", "All well.", SECTIONS)
    assert text.startswith("# T\n\n**All well.**\n\n## A <b>\n\nOne & two.\n\n| x | y |\n")
    assert "| 1\\|2 | ✓ <i> |\n\n```\nrun <x>\n```\n\n## B\n\nAlone.\n" in text
    assert all(
        len(re.findall(r"(?<!\\)\|", line)) in (2, 3)
        for line in text.splitlines()
        if line[:1] == "|"
    )
