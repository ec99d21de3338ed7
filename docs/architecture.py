"""docs/architecture.svg, the rooms and their imports: python -m docs.architecture (make docs)."""

from collections import Counter
from graphlib import TopologicalSorter
from html import escape
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

from docs.imports import MODULES, imports_of

PICTURE = Path(__file__).with_suffix(".svg")
OWN_ROOM = {
    "train": "train.py",
    "keel": "keel.py",
    "data_modules.records": "data_modules/records.py",
}
WIDTH, LEFT, RIGHT, RAIL = 1000, 56, 636, 25  # pixels: picture, the boxes' edges, between rails
LINE, LETTERS, GAP = 17, 76, 14  # pixels of a line of text, letters in it, pixels between boxes
STYLE = """
    text { font-family: "DejaVu Sans", Verdana, sans-serif; fill: #1a1a1a; font-size: 13px }
    .room { font-weight: bold; font-size: 15px }
    .files { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 12px }
    .floor { font-size: 22px; fill: #595959 }
    .count { font-size: 12px; text-anchor: middle }
    rect { fill: #f0f0f0; stroke: #333333; stroke-width: 1.2 }
    rect.page { fill: #ffffff; stroke: none }
    path { fill: none; stroke: #707070; stroke-width: 1.4 }
    path.between { stroke: #c8c8c8; stroke-dasharray: 3 4 }
    path.head { fill: #333333; stroke: none }
    circle { fill: #ffffff; stroke: #333333; stroke-width: 1.2 }
"""


def room_of(module: str) -> str:
    """The folder that a module lies in, at most two deep; three files are rooms of their own."""
    is_package = MODULES[module].name == "__init__.py"
    folders = module.split(".")[: None if is_package else -1]
    return OWN_ROOM.get(module) or "/".join(folders[:2]) + "/"


def files() -> dict[str, list[str]]:
    """Names of each room's files; empty ones are left out."""
    rooms: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        if path.stat().st_size:
            rooms.setdefault(room_of(module), []).append(path.stem)
    return rooms


def arrows() -> Counter[tuple[str, str]]:
    """How many modules of one room are imported by modules of another, each pair once."""
    pairs = (
        (room_of(module), room_of(name))
        for module in MODULES
        for name in imports_of(module) & MODULES.keys()
    )
    return Counter((room, below) for room, below in pairs if room != below)


def floors(edges: Counter[tuple[str, str]]) -> dict[str, int]:
    """Each room's floor: one above the highest room that it imports, or the ground."""
    below: dict[str, set[str]] = {}
    for room, imported in edges:
        below.setdefault(room, set()).add(imported)
    found: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        found[room] = max((found[name] + 1 for name in below.get(room, ())), default=0)
    return found


def text(x: float, y: float, kind: str, words: str) -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'


def box(room: str, names: list[str], top: int) -> tuple[list[str], int]:
    """A room's box with its files, and its height."""
    lines = wrap(" ".join(names), LETTERS, break_on_hyphens=False)
    height = 34 + LINE * len(lines)
    shape = f'<rect x="{LEFT}" y="{top}" width="{RIGHT - LEFT}" height="{height}" rx="4"/>'
    title = text(LEFT + 12, top + 21, "room", room)
    listed = [
        text(LEFT + 12, top + 39 + LINE * number, "files", line)
        for number, line in enumerate(lines)
    ]
    return [shape, title, *listed], height


def stacked(order: list[str], floor: dict[str, int]) -> tuple[list[str], dict[str, int], int]:
    """The boxes from top to bottom, with the floors' numbers; each box's top; the height of all."""
    names, y = files(), GAP
    drawn: list[str] = []
    tops: dict[str, int] = {}
    for above, room in pairwise([order[0], *order]):
        if floor[above] != floor[room]:
            drawn.append(f'<path class="between" d="M{GAP} {y - GAP // 2}H{WIDTH - GAP}"/>')
        if floor[above] != floor[room] or not tops:
            drawn.append(text(18, y + 24, "floor", str(floor[room])))
        lines, height = box(room, names[room], y)
        drawn += lines
        tops[room] = y
        y += height + GAP
    return drawn, tops, y


def wired(edges: Counter[tuple[str, str]], tops: dict[str, int]) -> list[str]:
    """The rails with their arrows, the rooms' lines out to them, and a count at each meeting."""
    rails = [room for room in tops if any(room == to for _, to in edges)]
    place = {room: RIGHT + 40 + RAIL * number for number, room in enumerate(rails)}
    drawn, counts = [], []
    for to, x in place.items():
        start, end = min(tops[room] for room, below in edges if below == to) + 36, tops[to] + 13
        drawn.append(f'<path d="M{x} {start}V{end}H{RIGHT + 9}"/>')
        drawn.append(f'<path class="head" d="M{RIGHT} {end}l10 -5v10z"/>')
    for room, top in tops.items():
        y, ends = top + 36, {place[to]: n for (above, to), n in edges.items() if above == room}
        drawn.append(f'<path d="M{RIGHT} {y}H{max(ends, default=RIGHT)}"/>')
        for x, number in sorted(ends.items()):
            counts.append(f'<circle cx="{x}" cy="{y}" r="10.5"/>')
            counts.append(text(x, y + 4.5, "count", str(number)))
    return drawn + counts


def picture() -> str:
    """The picture as SVG.

    Every room that is imported has a rail on the right, which ends in its arrow. A room's own line
    runs out to the rails of what it imports; a circle holds the number of imports.
    """
    edges = arrows()
    floor = floors(edges)
    boxes, tops, height = stacked(sorted(floor, key=lambda room: (-floor[room], room)), floor)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">'
    page = f'<rect class="page" width="{WIDTH}" height="{height}"/>'
    parts = [head, f"<style>{STYLE}</style>", page, *boxes, *wired(edges, tops), "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
