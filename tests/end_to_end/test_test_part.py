"""A test part in whole jobs: what is measured on it, how looks are counted, and what a refit leaves."""

import json

import keras
import kydb
import numpy as np
import pandas as pd
import pytest

from job_folder import SMALL, JobFolder, wait_for, wait_for_checkpoint
from ml.data.sample_market import sample_market
from ml.deliver.publishing import measured_key, version_key
from ml.metrics import METRICS, TEST

pytestmark = pytest.mark.slow

KEY = "/ml/models/fx_btc_jpy_model.h5"
TESTED = SMALL | {"horizon": 60, "test_fraction": 0.3, "tensorboard": "false"}
REFIT = TESTED | {"refit": "true", "publish_if": "better"}


@pytest.fixture(scope="module")
def market():
    return sample_market(rows=27_000, seed=4)


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    return tmp_path_factory.mktemp("looks")


def job_on(folder, market, looks, settings, **options):
    job = JobFolder(folder, settings, channel={"p.parquet": market}, **options)
    (job.base / "looks").symlink_to(looks)
    return job


@pytest.fixture(scope="module")
def refit(tmp_path_factory, market, looks):
    """A job that was measured on a test part, refit and published."""
    folder = tmp_path_factory.mktemp("refit")
    job = job_on(folder / "ml", market, looks, REFIT | {"model_db": f"files:/{folder}/kydb"})
    assert job.run(TRAINING_JOB_NAME="first") == 0, job.errors
    job.url = f"files:/{folder}/kydb"
    return job


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def test_the_verdict_the_report_and_the_positions_are_of_the_test_part(refit):
    record = json.loads((refit.base / "model/job.json").read_text())
    assert [record["data"][f"{part}_rows"] for part in ("train", "validation", "test")] == [15924, 2694, 8082]
    found = refit.metrics["performance"]
    assert found["part"] == "test" and "8,023 test minutes" in found["verdict"]
    assert refit.metrics["validation"]["part"] == "validation" and refit.metrics["folds"][0]["validation_rows"] == 2694
    positions = pd.read_parquet(refit.base / "output/data/positions.parquet")
    assert (len(positions), positions.index[-1]) == (8023, sample_market(rows=27_000, seed=4).index[-61])
    labels = positions["optimal_position"] > 0
    assert np.mean((positions["prediction"] > 0) == labels) == pytest.approx(
        found["metrics"]["test_accuracy"], abs=1e-5
    )
    tested = {name for name, metric in METRICS.items() if metric.group == TEST}
    assert tested < found["metrics"].keys() and found["metrics"]["val_auc"] and found["metrics"]["mean_val_pnl"]
    page = (refit.base / "output/data/report.html").read_text(encoding="utf-8")
    assert "8,023 test minutes" in page and found["look"] in page and "No row is left to measure it on" in page


def test_the_model_of_a_refit_is_published_with_the_one_that_was_measured_beside_it(refit):
    facts = refit.metrics["refit"]
    assert (facts["epochs"], facts["rows"]) == (refit.metrics["best_epoch"], 26_940)
    db = kydb.connect(refit.url)
    h5, measured = db[KEY], db[measured_key(KEY, db[KEY])]
    assert h5 == (refit.base / "model/fx_btc_jpy_model.h5").read_bytes() != measured
    assert measured == (refit.base / "model/measured/fx_btc_jpy_model.h5").read_bytes()
    version = json.loads(db[f"{version_key(KEY, h5)}.json"])
    assert version["measured_sha256"] == facts["measured_sha256"] and version["verdict"]
    assert refit.output.index("look at this test part") < refit.output.index("refit: epoch 1/2")


def test_the_next_job_is_compared_with_what_was_measured_and_counts_the_look_before(refit, tmp_path, market, looks):
    job = job_on(tmp_path / "ml", market, looks, TESTED | {"publish_if": "better", "model_db": refit.url})
    assert job.run(TRAINING_JOB_NAME="second") == 0, job.errors
    assert "This is the 2nd look at this test part, after first: " in job.output
    assert job.metrics["performance"]["looks"] == 2
    # The same settings, seed and rows: against the refit, which has seen the test rows, there would be a difference.
    assert "on the same 8,023 test rows, a difference of +0.0000" in job.metrics["publication"]
    assert job.metrics["published"] is False


def test_a_job_killed_in_its_refit_ends_with_the_same_model(refit, tmp_path, market, looks):
    settings = REFIT | {"publish_if": "always", "epochs": 60, "checkpoint_seconds": 1, "monitor": "last"}
    ends = []
    for name in ("killed", "whole"):
        job = job_on(tmp_path / name, market, looks, settings, checkpoints=True)
        if name == "killed":
            process = job.start(TRAINING_JOB_NAME=name)
            wait_for_checkpoint(process, job, "refit-60")
            process.kill()
            process.communicate()
            assert job.metrics["performance"]["verdict"] and "refit" not in job.metrics  # the measured model is safe
        assert job.run(TRAINING_JOB_NAME=name) == 0, job.errors
        ends.append(weights(job.base / "model/model.keras"))
        assert job.metrics["refit"]["epochs"] == 60
    assert "refit: resuming in epoch" not in job.output
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_stop_in_the_refit_keeps_the_measured_model_and_publishes_nothing(tmp_path, market, looks):
    url = f"files:/{tmp_path}/kydb"
    job = job_on(tmp_path / "ml", market, looks, REFIT | {"model_db": url, "epochs": 100, "monitor": "last"})
    process = job.start(TRAINING_JOB_NAME="stopped")
    wait_for(process, "refit: epoch 1/")
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "stopped in the refit: the model that was measured is in" in output
    assert job.metrics["stopped"] is True and "refit" not in job.metrics and job.metrics["performance"]["verdict"]
    with pytest.raises(KeyError):
        kydb.connect(url)[KEY]


def test_without_validation_the_last_epoch_is_judged_on_the_test_part(tmp_path, market, looks):
    job = job_on(tmp_path / "ml", market, looks, TESTED | {"validation_fraction": 0, "test_fraction": 0.2})
    assert job.run(TRAINING_JOB_NAME="unvalidated") == 0, job.errors
    assert job.metrics["best_epoch"] == 2 and "val_loss" not in job.metrics["epochs"][0]
    assert job.metrics["performance"]["part"] == "test" and job.metrics["folds"] == []
    assert (job.base / "output/data/report.html").exists() and "NO REPORT" not in job.output
