"""The launcher in an environment with sagemaker/requirements.txt and nothing else."""

import json
import os
import subprocess
import venv

import kydb
import numpy as np
import pandas as pd
import pytest
import yaml

from launching import ACCOUNT, REGION, REPOSITORY

REQUIREMENTS = REPOSITORY / "sagemaker" / "requirements.txt"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of a new environment with the launcher's requirements."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    first = next(line.split()[0] for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    reached = subprocess.run([*pip, "download", "--no-deps", "--dest", folder, first], capture_output=True, check=False)
    if reached.returncode:
        pytest.skip(f"pip reaches no package index: {first} cannot be downloaded (PIP_INDEX_URL)")
    subprocess.run([*pip, "install", "-r", REQUIREMENTS], check=True, timeout=900)
    return python


@pytest.fixture
def run(python, tmp_path):
    """Runs a command of the launcher in that environment; returns its standard output."""

    def launch(command, *arguments):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "POSITION_TRAINER"))
        }
        done = subprocess.run(
            [python, REPOSITORY / "sagemaker" / "launch.py", command, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return launch


def write_job(runs, name):
    """A job folder as a finished job leaves it."""
    (runs / name / "model").mkdir(parents=True)
    (runs / name / "model" / "fx_btc_jpy_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n model")
    record = {
        "TrainingJobName": name,
        "TrainingJobStatus": "Completed",
        "CreationTime": "2026-01-01T00:00:00+00:00",
        "HyperParameters": {},
        "Place": "local",
    }
    (runs / name / "training_job.json").write_text(json.dumps(record))


def test_jobs_are_listed_and_published(run, tmp_path):
    write_job(tmp_path / "runs", "one")
    assert "one\tCompleted" in run("list", "--runs", tmp_path / "runs")
    url = f"files:/{tmp_path / 'kydb'}"
    assert "published " in run("publish", "one", "--runs", tmp_path / "runs", "--model-db", url)
    assert kydb.connect(url)["/ml/models/fx_btc_jpy_model.h5"].startswith(b"\x89HDF")


@pytest.mark.parametrize("command", ["train", "tune"])
def test_requests_are_built_and_checked(run, tmp_path, command):
    request = yaml.safe_load(run(command, "--on", "docker", "--dry-run", "--runs", tmp_path / "runs"))
    assert "SAMPLE_MARKET" in json.dumps(request)
    account = [*ACCOUNT, "--region", REGION, "--prices", "s3://prices/history/"]
    assert yaml.safe_load(run(command, "--on", "aws", *account, "--dry-run"))


def test_the_simulated_market_is_written_and_the_page_drawn(run, python, tmp_path):
    program = "import sys; sys.path[:0] = sys.argv[1:]; import pathlib; from place import inputs; import search; "
    program += "inputs.sample_market(pathlib.Path('runs'), 1000, write=True)"
    folders = [REPOSITORY / "sagemaker", REPOSITORY / "container"]
    subprocess.run([python, "-c", program, *folders], cwd=tmp_path, check=True)
    assert (tmp_path / "runs" / "kydb").is_dir()


def test_prices_are_checked_drawn_and_imported(run, tmp_path):
    frame = pd.DataFrame({"date": pd.date_range("2024-01-02", periods=6000, freq="min"), "close": 1.1})
    frame["close"] += np.sin(np.arange(6000) / 200) / 100
    frame.to_feather(tmp_path / "p.feather", compression="zstd")
    assert "6,000 bars of 1 minute" in run("check", "p.feather", "--picture", "p.png")
    assert (tmp_path / "p.png").is_file()
    assert "wrote 6,000 rows" in run("import", "p.feather", "--to", f"files:/{tmp_path / 'kydb'}", "--key", "/eurusd")


@pytest.mark.parametrize(
    "command",
    ["--help", "check", "import", "train", "tune", "status", "logs", "stop", "list", "best", "publish", "predict"],
)
def test_help(run, command):
    assert run(*([command] if command == "--help" else [command, "--help"])).startswith("Usage: ")
