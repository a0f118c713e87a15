"""The notebook, executed from top to bottom in a kernel of its own, on a folder as KYDB."""

import base64
import time

import keras
import kydb
import nbformat
import pytest
from nbclient import NotebookClient

from launching import REPOSITORY

pytestmark = pytest.mark.slow
PATH = REPOSITORY / "sagemaker" / "Training.ipynb"


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook with its outputs, its folder of runs, and the seconds it took."""
    runs = tmp_path_factory.mktemp("runs")
    notebook = nbformat.read(PATH, as_version=4)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSITION_TRAINER_RUNS", str(runs))
        NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": PATH.parent}}
        ).execute()
    return notebook, runs, time.monotonic() - began


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert not outputs(notebook)
    assert not any(cell.get("execution_count") for cell in notebook.cells)


def test_every_cell_runs(executed):
    notebook, _, seconds = executed
    assert seconds < 60
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_it_draws_a_picture(executed):
    notebook, _, _ = executed
    pictures = [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", ())]
    assert len(pictures) == 1
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG") and len(pictures[0]) > 20_000


def test_its_model_is_in_kydb(executed, tmp_path):
    _, runs, _ = executed
    path = tmp_path / "model.h5"
    path.write_bytes(kydb.connect(f"files:/{runs / 'kydb'}").read("/ml/models/notebook_model.h5"))
    assert keras.saving.load_model(path, compile=False).output_shape == (None, 2)


def test_its_network_learns_and_its_request_is_one_that_may_be_sent(executed):
    text = "".join(output.get("text", "") for output in outputs(executed[0]))
    assert float(text.partition("right in ")[2].partition("%")[0]) > 53
    assert "TrainingJobName: position-trainer-" in text and "MetricDefinitions:" in text
