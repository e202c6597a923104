"""Run a notebook from top to bottom and keep what it printed: ``python notebooks/execute.py quickstart.ipynb``.

Runs in the repository's root. What libraries write to standard error (bars, warnings with local paths) is left out.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(path: Path) -> None:
    """Execute the notebook at `path` in place."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": "."}}).execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)  # when each cell ran
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
