import json

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file

from callbacks.studies.key_geometry import KeyGeometry, case_ids
from callbacks.studies.risk import RiskTable
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, WEIGHT, data_of, trainer_in


def look(lm, folder, geometry, requests=REQUESTS, **options):
    """Predicts; gives the editor, the figures and the keys."""
    editor = ROME(lm=lm, **METHOD)
    trainer_in(folder, [RiskTable(), geometry], **options).predict(editor, data_of(requests))
    figures = json.loads((folder / "key_geometry.json").read_text())
    return editor, figures, load_file(folder / "keys.safetensors")


def hard_file(folder, numbers=(11, 12)):
    """A file of hard cases, as a sweep writes it."""
    file = folder / "hard_cases.json"
    file.write_text(json.dumps([r.as_counterfact() for r in REQUESTS if r.case_id in numbers]))
    return str(file)


@pytest.fixture(scope="module")
def seen(lm, tmp_path_factory):
    """Keys of the four requests, two of which are hard, with a logger."""
    folder = tmp_path_factory.mktemp("keys")
    logger = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    return folder, *look(lm, folder, KeyGeometry(hard=hard_file(folder)), logger=logger)


def test_keys_are_those_that_the_editor_locates(seen):
    _, editor, _, keys = seen
    located = editor.locate(REQUESTS)
    torch.testing.assert_close(keys["plain"], torch.stack([one.keys[0] for one in located]))
    torch.testing.assert_close(keys["mean"], torch.stack([one.keys.mean(0) for one in located]))
    assert keys["case_id"].tolist() == [10, 11, 12, 13]
    assert keys["collapse"].tolist() == [False, True, True, False]


def test_figures_say_what_they_are_of(seen):
    figures = seen[2]
    assert (figures["view"], figures["collapse"]) == ("subject", "cases of hard_cases.json")
    assert figures["requests"] == {"collapse": 2, "normal": 2}
    assert figures["lm"]["method"] == "ROME"
    rows = [json.loads(line) for line in (seen[0] / "risk.jsonl").read_text().splitlines()]
    normal = [row["denominator"] for row in rows if row["case_id"] in (10, 13)]
    assert figures["denominator"]["normal"] == pytest.approx(sum(normal) / 2, rel=1e-4)
    cosines = [row["key_cosine"] for row in rows if row["case_id"] in (11, 12)]
    assert figures["cosine"]["collapse"] == pytest.approx(sum(cosines) / 2, rel=1e-4)


def test_pictures_and_a_projector_are_left_behind(seen):
    folder = seen[0]
    for name in ("keys_pca.png", "keys_tsne.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG\r\n")
    (metadata,) = folder.rglob("metadata.tsv")
    lines = [line.split("\t") for line in metadata.read_text().splitlines()]
    assert lines[0] == ["group", "kind", "case", "subject"]
    assert lines[1:3] == [
        ["collapse", "plain", "11", "Victor Hugo"],
        ["collapse", "plain", "12", "Miles Davis"],
    ]
    assert len(lines) == 1 + 8
    (tensors,) = folder.rglob("tensors.tsv")
    row = [float(number) for number in tensors.read_text().splitlines()[0].split("\t")]
    torch.testing.assert_close(torch.tensor(row), seen[3]["plain"][1])


def test_looking_leaves_the_model_as_it_is(seen):
    editor = seen[1]
    assert torch.equal(editor.lm.get_parameter(WEIGHT), editor.original[WEIGHT])


def test_without_a_file_a_subject_at_the_first_token_is_collapse(lm, tmp_path):
    requests = [*REQUESTS, REQUESTS[0]._replace(case_id=14, subject="A")]
    _, figures, keys = look(lm, tmp_path, KeyGeometry("prefixed"), requests)
    assert keys["collapse"].tolist() == keys["begins"].tolist() == [False] * 4 + [True]
    assert figures["requests"] == {"collapse": 1, "normal": 4}
    assert figures["collapse"] == "subject's last token is the prompt's first"


def test_one_request_has_figures_but_no_picture(lm, tmp_path):
    with pytest.warns(UserWarning, match="no picture of the keys: fewer than 3 of them"):
        _, figures, keys = look(lm, tmp_path, KeyGeometry(), REQUESTS[:1])
    assert len(keys["plain"]) == 1
    assert "silhouette" not in figures
    assert not list(tmp_path.glob("*.png"))


def test_a_batch_method_has_keys_without_a_direction(lm, tmp_path):
    options = {name: value for name, value in METHOD.items() if name != "layer"}
    editor = MEMIT(lm=lm, layers=[0], **options)
    trainer_in(tmp_path, [KeyGeometry()]).predict(editor, data_of())
    figures = json.loads((tmp_path / "key_geometry.json").read_text())
    assert "denominator" not in figures
    assert (tmp_path / "keys_pca.png").exists()


def test_a_method_without_keys_says_so(lm, tmp_path):
    with pytest.raises(ValueError, match="FineTuning has no keys"):
        trainer_in(tmp_path, [KeyGeometry()]).predict(FineTuning([0], lm=lm), data_of())


def test_hard_cases_are_read_from_a_list_from_lines_and_from_an_object(tmp_path):
    assert case_ids(tmp_path / hard_file(tmp_path)) == {11, 12}
    (tmp_path / "lines.jsonl").write_text('{"case_id": 4}\n{"case_id": "6"}\n')
    assert case_ids(tmp_path / "lines.jsonl") == {4, 6}
    (tmp_path / "perplexities.json").write_text('{\n"21": 1968.3,\n"43": 9750.4\n}\n')
    assert case_ids(tmp_path / "perplexities.json") == {21, 43}


def test_hard_cases_that_are_not_there_are_told_before_any_work(lm, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"hard: there is no file nowhere.json"):
        look(lm, tmp_path, KeyGeometry(hard="nowhere.json"))


@pytest.mark.parametrize("text", ["", "hard", "[1, 2]", '[{"case": 3}]', '{"case_id": "x"}'])
def test_a_file_without_cases_is_told(tmp_path, text):
    (tmp_path / "hard.json").write_text(text)
    with pytest.raises(ValueError, match=r"hard.json holds no JSON records with a case_id"):
        case_ids(tmp_path / "hard.json")


def test_hard_cases_of_other_requests_are_told(lm, tmp_path):
    file = tmp_path / "hard.json"
    file.write_text('[{"case_id": 99}]')
    with pytest.raises(ValueError, match="none of the 4 requests is a case of"):
        look(lm, tmp_path, KeyGeometry(hard=str(file)))


def test_an_empty_batch_which_evens_out_devices_has_no_keys():
    geometry = KeyGeometry()
    geometry.on_predict_batch_end(None, None, None, [], 0)
    assert geometry.seen == [[]]
