"""The notebooks of docs/ run from start to end, with a narrow network in place of the published weights."""

import os
from pathlib import Path

import pytest
from helpers.networks import seeded

from sscd_jax.weights.native import write_safetensors

nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook(path, tmp_path, monkeypatch):
    write_safetensors(tmp_path / "narrow.safetensors", *seeded("resnet18"), {})
    monkeypatch.delenv("MPLBACKEND", raising=False)  # images go into the notebook
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are stripped"
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    assert "WEIGHTS = " in parameters.source
    parameters.source = f"WEIGHTS = {str(tmp_path / 'narrow.safetensors')!r}"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    errors = [one for cell in outputs.values() for one in cell if one.output_type == "error"]
    assert not errors
    if path.stem == "quickstart":
        shown = [one for cell in outputs.values() for one in cell if "image/png" in one.get("data", {})]
        assert shown, "the matches are shown"
        texts = [one.data["text/plain"] for cell in outputs.values() for one in cell if "data" in one]
        assert "'rocket, JPEG quality 10': 'rocket'" in " ".join(texts)
    assert os.listdir(tmp_path) == ["narrow.safetensors"], "nothing is left beside it"
