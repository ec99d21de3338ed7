import gzip
import json
import shutil

import datasets
import pytest

from data_modules.edit_requests import EditingDataModule
from data_modules.embedded import FOLDER
from data_modules.forms.task_forms import TASKS
from data_modules.forms.tasks import TaskOptions, read_tasks, subset
from tests.data_modules.forms.test_task_forms import RECORDS
from train import main


@pytest.fixture
def folder(tmp_path):
    """A file for each task, of one record in its public form."""
    for name, record in RECORDS.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path


def of_file(name, file, **options):
    return read_tasks(TaskOptions(names=[name], files={name: str(file)}, **options))[name]


def test_all_tasks_are_embedded():
    items = read_tasks(TaskOptions())
    assert list(items) == list(TASKS)
    for name, own in items.items():
        assert len(own) == len((FOLDER / "tasks" / f"{name}.jsonl").read_text().splitlines())
        assert {item.task for item in own} == {name}
        assert [item.number for item in own] == list(range(len(own)))


def test_tasks_are_read_from_a_folder_lines_or_list_plain_or_compressed(folder):
    plain = read_tasks(TaskOptions(source=str(folder)))
    assert [len(items) for items in plain.values()] == [1] * 6
    text = (folder / "piqa.jsonl").read_bytes()
    (folder / "piqa.jsonl").unlink()
    (folder / "piqa.jsonl.gz").write_bytes(gzip.compress(text))
    (folder / "mmlu.jsonl").unlink()
    (folder / "mmlu.json").write_text(json.dumps([RECORDS["mmlu"]], indent=1))
    assert read_tasks(TaskOptions(source=str(folder))) == plain


def test_a_file_of_ones_own_takes_the_place_of_the_source(folder):
    record = RECORDS["piqa"] | {"goal": "Rest"}
    (folder / "mine.jsonl").write_text(json.dumps(record))
    items = read_tasks(TaskOptions(source=str(folder), files={"piqa": str(folder / "mine.jsonl")}))
    assert items["piqa"][0].context == "Question: Rest\nAnswer:"
    assert items["lambada"][0].choices == (" statuette",)


def test_public_files_are_read(shared_data):
    folder = shared_data / "tasks"
    names = {
        "lambada": ("lambada_test.jsonl", 5153),
        "piqa": ("piqa.jsonl", 1838),
        "hellaswag": ("hellaswag_val_1000.jsonl", 1000),
        "nq_open": ("NQ-open.dev.jsonl", 3610),
    }
    for name, (file, count) in names.items():
        assert len(of_file(name, folder / file)) == count
    questions = of_file("squad_v2", folder / "squad2_dev_half.json")
    assert questions[0].context.startswith("Title: Normans\n\nBackground: The Normans")
    assert questions[0].answers == ("France",) * 4
    assert any(not question.answers for question in questions)


def test_the_hubs_dataset_is_read_in_the_split_that_is_judged(monkeypatch):
    asked = []

    def load_dataset(path, config, split, streaming):
        asked.append((path, config, split))
        return [RECORDS["mmlu"]]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(read_tasks(TaskOptions(names=["mmlu"], source="hub"))["mmlu"]) == 1
    of_file("mmlu", "somebody/mmlu")
    assert asked == [("cais/mmlu", "all", "test"), ("somebody/mmlu", None, "test")]


def test_a_hub_that_cannot_be_reached_is_named():
    with pytest.raises(FileNotFoundError, match="'Rowan/hellaswag' is neither a file or folder"):
        read_tasks(TaskOptions(names=["hellaswag"], source="hub"))


def test_a_record_with_a_fault_is_named_by_its_line(folder):
    faulty = json.dumps({k: v for k, v in RECORDS["piqa"].items() if k != "sol2"})
    (folder / "piqa.jsonl").write_text(f"{json.dumps(RECORDS['piqa'])}\n\n{faulty}\n")
    message = r"piqa.jsonl: line 3: field 'sol2' is missing; correct the record"
    with pytest.raises(ValueError, match=message):
        of_file("piqa", folder / "piqa.jsonl")


def test_what_is_not_an_object_is_named(folder):
    (folder / "piqa.jsonl").write_text("[[1], 2]")
    with pytest.raises(ValueError, match=r"record 0 must be a JSON object, got \[1\]"):
        of_file("piqa", folder / "piqa.jsonl")


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_an_empty_task_is_refused(folder, text):
    (folder / "piqa.jsonl").write_text(text)
    with pytest.raises(ValueError, match="there is no item of piqa in it"):
        of_file("piqa", folder / "piqa.jsonl")


def test_a_task_that_a_folder_does_not_hold_is_named(folder):
    (folder / "mmlu.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="holds no mmlu"):
        read_tasks(TaskOptions(source=str(folder)))
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="must be embedded, hub or a folder"):
        read_tasks(TaskOptions(source=str(folder)))


def test_subjects_of_mmlu_are_kept_as_they_are_named(folder):
    subjects = ["anatomy", "virology", "anatomy"]
    lines = [json.dumps(RECORDS["mmlu"] | {"subject": subject}) for subject in subjects]
    (folder / "mmlu.jsonl").write_text("\n".join(lines))
    items = of_file("mmlu", folder / "mmlu.jsonl", subjects=["anatomy"])
    assert [item.number for item in items] == [0, 2]
    assert all("about anatomy." in item.context for item in items)
    with pytest.raises(ValueError, match=r"subjects \['magic'\] are not .*anatomy, virology"):
        of_file("mmlu", folder / "mmlu.jsonl", subjects=["magic", "anatomy"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["piqua"]}, r"tasks \['piqua'\] are unknown; choose from lambada, hellaswag"),
        ({"files": {"boolq": "x"}}, r"tasks \['boolq'\] are unknown"),
        ({"names": []}, "tasks.names is empty"),
        ({"limit": 0}, "tasks.limit must be positive, got 0"),
        ({"names": ["piqa"], "subjects": ["anatomy"]}, "with mmlu among tasks.names"),
        ({"subjects": []}, "tasks.subjects must be some of MMLU's"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        EditingDataModule(tasks=TaskOptions(**options))


def test_a_subset_is_always_the_same_and_grows_at_its_end():
    items = read_tasks(TaskOptions(names=["lambada"]))["lambada"]
    few, more = subset(items, 5), subset(items, 9)
    assert more[:5] == few == subset(items, 5) != items[:5]
    assert subset(items, None) == items
    assert sorted(item.number for item in subset(items, 10**6)) == list(range(len(items)))


def test_a_data_module_gives_the_subset_after_edits_and_all_in_full():
    data = EditingDataModule(tasks=TaskOptions(names=["piqa", "lambada"], limit=3))
    data.setup("fit")
    few, full = data.judged(in_full=False), data.judged(in_full=True)
    assert list(few) == ["piqa", "lambada"]
    assert [len(items) for items in few.values()] == [3, 3]
    assert len(full["piqa"]) > 100
    assert set(few["piqa"]) < set(full["piqa"])


def test_tasks_are_read_neither_without_being_asked_for_nor_to_predict():
    assert EditingDataModule().judged(in_full=True) == {}
    data = EditingDataModule(tasks=TaskOptions(source="nowhere"))
    data.setup("predict")
    with pytest.raises(FileNotFoundError, match="got 'nowhere'"):
        data.setup("fit")


def test_the_command_line_takes_every_option():
    options = ["--data.tasks.limit", "7", "--data.tasks.names", "[piqa,mmlu]"]
    options += ["--data.tasks.source", "hub", "--data.tasks.subjects", "[anatomy]"]
    options += ["--data.tasks.files.piqa", "x.jsonl"]
    found = main(["--config", "rome.yaml", *options], run=False).datamodule.tasks
    assert found == TaskOptions(["piqa", "mmlu"], "hub", {"piqa": "x.jsonl"}, 7, ["anatomy"])
    assert main(["--config", "rome.yaml"], run=False).datamodule.tasks is None
