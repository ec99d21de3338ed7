from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_to_its_end(path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": path.parent}}
    nbclient.NotebookClient(notebook, timeout=300, startup_timeout=120, resources=where).execute()


def test_there_is_a_notebook():
    assert NOTEBOOKS
