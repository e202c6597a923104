"""The notebook runs from top to bottom, on a tiny model, and is committed with what it printed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from nas_engine import Example, SuperNetwork
from search_spaces import layer_skip, lora_rank, mlp_width
from tests.tiny import tiny_llama, tiny_tokenizer

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NOTEBOOK, DEPLOYMENT = NOTEBOOKS / "quickstart.ipynb", NOTEBOOKS / "deployment.ipynb"


@pytest.mark.slow
def test_notebook_runs_from_top_to_bottom_on_a_tiny_model(tmp_path) -> None:
    tiny_llama(num_hidden_layers=6).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = (
        'MODEL, RUN = "model", "run"\nLORA_STEPS, HEAL_STEPS, EVALUATIONS, POPULATION = 3, 3, 8, 4\n'
        # In a random model the best may have no block at all, and so nothing to heal.
        'VALIDATION, TEST = 12, 12\nBLOCKS = ("attention",)\nBUDGET = 1.0'
    )
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    figures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(figures) == 5
    assert (tmp_path / "run" / "compressed" / "config.json").exists()


def test_committed_notebook_has_its_outputs_and_no_error() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.slow
def test_notebook_of_deployment_runs_from_top_to_bottom_on_a_tiny_model(tmp_path) -> None:
    model = tiny_llama(num_hidden_layers=4, hidden_size=64, intermediate_size=128)
    template = lora_rank((4,)) + mlp_width((1.0, 0.5), multiple_of=32) + layer_skip(("mlp",))
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    supernet = SuperNetwork.from_pretrained(str(tmp_path / "model"), template)
    supernet.order_by_importance(supernet.texts([Example("1 + 1 =", " 2")], 1), refit=True)
    supernet.save(tmp_path / "run" / "supernet")
    notebook = nbformat.read(DEPLOYMENT, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = (
        'RUN, OUT = "run", "out"\nRUNTIME, WEIGHTS, THREADS = "llama.cpp", "q8_0", 1\n'
        "TOKENS, UNSEEN, EVALUATIONS, POPULATION, HEAL_STEPS = 8, 3, 6, 4, 2\nVALIDATION, TEST = 12, 12"
    )
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "out" / "chosen.gguf").exists()
