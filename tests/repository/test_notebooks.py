"""Every notebook runs from top to bottom in a fresh kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.notebook
@pytest.mark.model
@pytest.mark.timeout(900)  # many cells, with a limit of their own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": path.parent}})
    before = set(psutil.Process().children(recursive=True))
    client.execute()  # raises at the first error
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = [line for out in outputs if out.get("name") == "stderr" for line in out.text.splitlines()]
    # On a machine that has not got the model yet, the first launch says how far the download is.
    warned = [line for line in said if not line.startswith("nbruntime: ")]
    print(f"{len(notebook.cells)} cells, {len(outputs)} outputs")
    assert outputs
    assert warned == []
    assert set(psutil.Process().children(recursive=True)) <= before
