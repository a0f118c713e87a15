"""SageMaker's own SDKs, versions 2 and 3, each in an environment of its own: the image in their local modes."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import time
import venv

import kydb
import pytest

from hosts_script import SCRIPT
from launching import LAUNCH, REPOSITORY
from ml.data.sample_market import sample_market
from ml.metrics import metric_definitions

pytestmark = pytest.mark.slow

V2, V3 = "sagemaker==2.257.7", "sagemaker==3.27.0"
PROGRAMS = {
    V2: """
import json, sys
from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession
image, root, prices, settings, script, instances = sys.argv[1:]
session = LocalSession()
session.config = {"local": {"local_code": True, "container_root": root}}
Estimator(
    image_uri=image, role="arn:aws:iam::999988887777:role/trainer", instance_type="local",
    instance_count=int(instances),
    sagemaker_session=session, hyperparameters=json.loads(settings), output_path=f"file://{root}/out",
    **({"entry_point": script} if script else {}),
).fit({"train": f"file://{prices}"})
""",
    V3: """
import json, os, sys
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.model_trainer import Mode
image, root, prices, settings, script, instances = sys.argv[1:]
code = SourceCode(source_dir=os.path.dirname(script), entry_script=os.path.basename(script)) if script else None
ModelTrainer(
    training_image=image, role="arn:aws:iam::999988887777:role/trainer", training_mode=Mode.LOCAL_CONTAINER,
    compute=Compute(instance_type="local_cpu", instance_count=int(instances)), hyperparameters=json.loads(settings),
    local_container_root=root, source_code=code,
).train(input_data_config=[InputData(channel_name="train", data_source=prices)])
""",
}
SMALL = {"lookback": "60", "nodes": "16", "epochs": "1", "batch_size": "512"}


# What the documentation shows: version 3 takes objects, where the API and version 2 take dicts.
DEFINITIONS = """
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
def python_with(tmp_path_factory):
    """Gives the Python of an environment with an SDK."""

    @functools.cache
    def installed(requirement):
        folder = tmp_path_factory.mktemp("sdk")
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        # Most of its modules are never imported, so that compiling all of them would take longer than it saves.
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", requirement]
        done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=900)
        return python, done.stderr.strip().splitlines()[-1] if done.returncode else ""

    def python_of(requirement):
        python, problem = installed(requirement)
        if problem:
            pytest.skip(f"{requirement} cannot be installed: {problem}")
        return python

    return python_of


@pytest.fixture(scope="module", params=PROGRAMS, ids=["v2", "v3"])
def sdk(request, python_with):
    """The Python of an environment with an SDK, and the program that uses it."""
    if not shutil.which("docker-compose"):
        pytest.skip("the SDKs' local modes need the command docker-compose (Debian: apt-get install docker-compose)")
    return python_with(request.param), PROGRAMS[request.param]


@pytest.fixture
def prices(tmp_path):
    """A channel of the test's own: the SDKs mount it to be written."""
    folder = tmp_path / "prices"
    folder.mkdir()
    sample_market(rows=4000, seed=3).to_parquet(folder / "prices.parquet")
    return folder


@pytest.fixture
def start(image, sdk, prices, tmp_path):
    """Starts a training job by an SDK in its local mode; what it prints goes to `log`."""
    python, program = sdk

    def run(settings=SMALL, script="", instances=1):
        (root_of(tmp_path)).mkdir(exist_ok=True)
        what = [image, root_of(tmp_path), prices, json.dumps(settings), script, instances]
        account = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "eu-west-1"}
        with (tmp_path / "log").open("wb") as log:
            return subprocess.Popen(
                [python, "-c", program, *map(str, what)],
                env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | account,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return run


def root_of(tmp_path):
    """The SDK's folder; docker-compose names version 3's containers after it, so it is another in each test."""
    return tmp_path / tmp_path.name


def log_of(tmp_path):
    """What was printed, without the colours of docker-compose."""
    return re.sub("\x1b\\[[0-9;]*m", "", (tmp_path / "log").read_text(errors="replace"))


def test_a_job_leaves_its_model_which_launch_publishes(start, tmp_path):
    assert start().wait(timeout=300) == 0, log_of(tmp_path)
    assert "epoch=1/1 loss=" in log_of(tmp_path)
    archives = list((root_of(tmp_path)).rglob("model.tar.gz"))
    assert len(archives) == 1
    for path in (archives[0], archives[0].parent):
        url = f"files:/{tmp_path / path.name}"
        subprocess.run([*LAUNCH, "publish", path, "--model-db", url], check=True, capture_output=True)
        assert kydb.connect(url)["/ml/models/fx_btc_jpy_model.h5"].startswith(b"\x89HDF")


def test_a_wrong_hyperparameter_is_named_in_the_log(start, tmp_path):
    assert start(SMALL | {"nodez": "64"}).wait(timeout=300) != 0
    assert "unknown hyperparameter nodez; did you mean nodes?" in log_of(tmp_path)


def test_a_script_of_the_users_own_runs(start, tmp_path):
    script = tmp_path / "code" / "mine.py"
    script.parent.mkdir()
    script.write_text(
        "import os, pathlib\n"
        "from ml.train_sequence import normalised\n"
        "print('channel', os.listdir(os.environ['SM_CHANNEL_TRAIN']), flush=True)\n"
        "pathlib.Path(os.environ['SM_MODEL_DIR'], 'mine.txt').write_text('mine')\n"
    )
    assert start({}, script).wait(timeout=300) == 0, log_of(tmp_path)
    assert "channel ['prices.parquet']" in log_of(tmp_path)


def test_a_script_of_the_users_own_runs_on_two_instances(start, tmp_path):
    script = tmp_path / "code" / "mine.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    assert start({}, script, instances=2).wait(timeout=300) == 0, log_of(tmp_path)
    first, second = sorted(set(re.findall(r"heard (algo-\S+)", log_of(tmp_path))))
    assert first.startswith("algo-1") and second.startswith("algo-2")


def test_two_instances_train_together(start, tmp_path):
    assert start(instances=2).wait(timeout=300) == 0, log_of(tmp_path)
    assert log_of(tmp_path).count("epoch=1/1 loss=") == 1  # the first host alone reports
    assert len(list((root_of(tmp_path)).rglob("model.tar.gz"))) == 1


def test_ctrl_c_stops_the_job_which_keeps_its_model(start, tmp_path):
    process = start(SMALL | {"epochs": "100000"})
    try:
        deadline = time.monotonic() + 240
        while "epoch=2/" not in log_of(tmp_path):
            assert process.poll() is None and time.monotonic() < deadline, log_of(tmp_path)
            time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=240)  # both SDKs go without a look at what the container leaves
    while not (found := list((root_of(tmp_path)).rglob("metrics.json"))) or not (found[0].parent / "job.json").exists():
        assert time.monotonic() < deadline, log_of(tmp_path)
        time.sleep(0.5)
    assert json.loads(found[0].read_text())["stopped"]
    assert (found[0].parent / "model.keras").is_file()


def test_version_3_takes_the_metric_definitions(python_with):
    done = subprocess.run(
        [python_with(V3), "-c", DEFINITIONS + USE],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "container")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout.splitlines()[-1])
    assert taken == [[each["Name"], each["Regex"]] for each in metric_definitions()]
