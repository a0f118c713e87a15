"""A job on several instruments, from their files to its report."""

import json

import pandas as pd
import pytest

from job_folder import SMALL, JobFolder
from ml.data.sample_market import sample_universe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    files = {f"{name}.parquet": market for name, market in sample_universe(3, 20_000)}
    files["NOISE.parquet"] = files["NOISE.parquet"].drop(files["NOISE.parquet"].index[3000:10_000])
    settings = SMALL | {"validation_fraction": 0.4, "folds": 2, "max_gap": "2d", "publish_if": "better"}
    settings |= {"model_db": f"files:/{tmp_path_factory.mktemp('kydb')}"}
    job = JobFolder(tmp_path_factory.mktemp("universe") / "ml", settings, channel=files)
    assert job.run() == 0, job.errors
    return job


def test_the_log_says_what_was_read_and_cut(job):
    assert (
        "read: 3 instruments: NOISE (13,000 bars), SAMPLE_1 (20,000 bars), SAMPLE_2 (20,000 bars), bars of 1 minute"
        in job.output
    )
    assert "segments: 4 with max_gap 2d, 359 windows lost to cuts" in job.output
    assert "Warning" not in job.errors


def test_its_files_have_a_row_an_instrument(job):
    performance = job.metrics["performance"]
    assert {row["symbol"] for row in performance["instruments"]} == {"NOISE", "SAMPLE_1", "SAMPLE_2"}
    assert performance["profit_unit"] == "basis points of the price" and len(job.metrics["folds"]) == 2
    record = json.loads((job.base / "model/job.json").read_text())
    assert set(record["data"]["instruments"]) == {"NOISE", "SAMPLE_1", "SAMPLE_2"}
    assert record["data"]["segments"]["count"] == 4 and record["data"]["segments"]["longest_look"] == 300
    positions = pd.read_parquet(job.base / "output/data/positions.parquet")
    assert positions.groupby("symbol", observed=True).size().to_dict() == {
        row["symbol"]: row["rows"] for row in performance["instruments"]
    }


def test_another_night_is_compared_with_the_model_before(job):
    assert job.metrics["published"] is True
    again = JobFolder(
        job.base.parent / "again", json.loads((job.base / "input/config/hyperparameters.json").read_text()), channel={}
    )
    for path in (job.base / "input/data/train").iterdir():
        (again.base / "input/data/train" / path.name).write_bytes(path.read_bytes())
    assert again.run() == 0, again.errors
    told = again.metrics["publication"]
    assert "of the model under the key on the same 20,544 validation rows, a difference of +0.0000" in told
