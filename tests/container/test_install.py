"""`pip install ./container`, for those who read a TimeSeries."""

import subprocess
import sys
from pathlib import Path

import kydb
import pandas as pd
import pytest

import ml
from ml.timeseries import time_series

_CONTAINER = Path(ml.__file__).parents[1]
_READER = """
import importlib.metadata, sys
import kydb
frame = kydb.connect(sys.argv[1])["/prices/BTC"].curve()
print(len(frame), frame["mid"].iloc[-1], importlib.metadata.version("position-trainer"))
"""


@pytest.mark.slow
def test_a_series_is_read_where_only_the_package_is_installed(tmp_path, files_url):
    index = pd.date_range("2020-01-01", periods=100, freq="min", tz="UTC", name="dt")
    time_series(kydb.connect(files_url), "/prices/BTC").replace(pd.DataFrame({"mid": 42.5}, index))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [tmp_path / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    before = sorted(path for path in _CONTAINER.rglob("*") if "__pycache__" not in path.parts)
    done = subprocess.run([*pip, "install", _CONTAINER], capture_output=True, text=True, check=False)
    if done.returncode and ("No matching distribution" in done.stderr or "connection" in done.stderr.lower()):
        pytest.skip("pip reaches no package index: " + done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert sorted(path for path in _CONTAINER.rglob("*") if "__pycache__" not in path.parts) == before
    read = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", _READER, files_url], cwd=tmp_path, capture_output=True, text=True
    )
    assert read.stdout.split() == ["100", "42.5", ml.__version__], read.stderr
    listed = subprocess.run([*pip, "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert "tensorflow" not in listed and "sagemaker" not in listed
