"""The metric definitions in version 3 of SageMaker's Python SDK, which has an environment of its own here."""

import json
import os
import subprocess
import venv

import pytest

from launching import REPOSITORY
from ml.metrics import metric_definitions

pytestmark = pytest.mark.slow

# What the documentation shows: version 3 takes objects, where the API and version 2 take dicts.
SNIPPET = """
from sagemaker.core.training.configs import MetricDefinition
from ml.metrics import metric_definitions

definitions = [MetricDefinition(name=each["Name"], regex=each["Regex"]) for each in metric_definitions()]
"""
# What its ModelTrainer makes of them, whose own constructor asks IAM for the role
USE = """
import json
from sagemaker.core.shapes import AlgorithmSpecification

taken = AlgorithmSpecification(training_input_mode="File", metric_definitions=definitions).metric_definitions
print(json.dumps([[each.name, each.regex] for each in taken]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    if given := os.environ.get("POSITION_TRAINER_SDK_PYTHON"):
        return given
    folder = tmp_path_factory.mktemp("sdk")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "pip", "install", "--quiet", "sagemaker>=3"]
    if subprocess.run(pip, capture_output=True, check=False, timeout=1800).returncode:
        pytest.skip("pip installs no sagemaker>=3 here (PIP_INDEX_URL)")
    return folder / "bin" / "python"


def test_version_3_takes_the_metric_definitions(python):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "container")}
    done = subprocess.run([python, "-c", SNIPPET + USE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout.splitlines()[-1])
    assert taken == [[each["Name"], each["Regex"]] for each in metric_definitions()]
