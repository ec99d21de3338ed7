from xml.etree import ElementTree

from docs.architecture import PICTURE, arrows, files, floors, picture, room_of


def test_the_picture_is_what_the_code_gives():
    assert PICTURE.read_text("utf-8") == picture(), "run make docs"


def test_the_picture_shows_every_room_file_and_count():
    written = ElementTree.fromstring(picture()).iter("{http://www.w3.org/2000/svg}text")
    words = " ".join(line.text for line in written).split()
    for room, names in files().items():
        assert {room, *names} <= set(words)
    counts = [int(word) for word in words if word.isdigit()]
    assert sum(counts) == sum(arrows().values()) + sum(set(floors(arrows()).values()))


def test_every_arrow_points_to_a_lower_floor():
    floor = floors(arrows())
    assert floor.keys() == files().keys()
    assert all(floor[room] > floor[below] for room, below in arrows())


def test_a_room_stands_one_floor_above_the_highest_that_it_imports():
    edges = {("a", "b"): 1, ("a", "c"): 2, ("b", "c"): 1}
    assert floors(edges) == {"a": 2, "b": 1, "c": 0}


def test_a_module_belongs_to_its_folder():
    rooms = {"train": "train.py", "command_line.cli": "command_line/"}
    rooms |= {"data_modules.records": "data_modules/records.py"}
    rooms |= {"data_modules.embedded": "data_modules/embedded/"}
    rooms |= {"lightning_modules.methods.rome": "lightning_modules/methods/"}
    assert {module: room_of(module) for module in rooms} == rooms
