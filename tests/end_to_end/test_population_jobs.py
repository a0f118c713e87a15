"""A job that trains several networks at once, as a process."""

import csv
import json
import signal

import keras
import numpy as np
import pandas as pd
import pytest

from job_folder import SMALL, JobFolder, wait_for, wait_for_checkpoint
from ml.data.sample_market import sample_market

POINTS = [
    {"learning_rate": 0.01},
    {"learning_rate": 0.003, "seed": 2},
    {"lookback": 30, "nodes": 8},
    {"learning_rate": 100, "weight_decay": 1},
]
SETTINGS = SMALL | {"epochs": 3, "precision": "float32", "optimizer": "sgd"}
POPULATION = SETTINGS | {"points": json.dumps(POINTS)}


@pytest.fixture(scope="module")
def market():
    return {"prices.parquet": sample_market(rows=6000, seed=3)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, market):
    job = JobFolder(tmp_path_factory.mktemp("finished") / "ml", POPULATION, channel=market)
    assert job.run(TRAINING_JOB_NAME="many") == 0, job.errors
    return job


def record_of(job):
    return json.loads((job.base / "model/job.json").read_text())


def predictions_of(job):
    return pd.read_parquet(job.base / "output/data/population.parquet")


def test_the_best_member_is_in_model_as_a_job_of_its_own_would_leave_it(finished, tmp_path, market):
    metrics, settings = finished.metrics, record_of(finished)["settings"]
    kept = metrics["population"][metrics["member"]]
    assert settings["population"] == 1 and settings["points"] == "" and settings["halving"] == 1
    assert {name: settings[name] for name in kept["settings"]} == kept["settings"]
    assert kept["metrics"] == metrics["best"] and kept["epochs"] == len(metrics["epochs"]) == 3
    others = [each["metrics"]["val_loss"] for each in metrics["population"] if each["metrics"]]
    assert metrics["best"]["val_loss"] == min(others)
    own = JobFolder(
        tmp_path / "ml",
        SETTINGS | {name: settings[name] for name in ("longest_lookback", *kept["settings"])},
        channel=market,
    )
    assert own.run() == 0, own.errors
    for mine, theirs in zip(metrics["epochs"], own.metrics["epochs"], strict=True):
        names = [name for name in mine if name != "windows_per_second"]
        np.testing.assert_allclose([mine[name] for name in names], [theirs[name] for name in names], rtol=0, atol=1e-4)
    one, other = (keras.models.load_model(job.base / "model/model.keras") for job in (finished, own))
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4)


def test_the_leaderboard_and_every_members_predictions_are_beside_the_report(finished):
    metrics = finished.metrics
    with (finished.base / "output/data/leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["member"] == str(metrics["member"]) and len(rows) == 4
    assert rows[-1]["member"] == "3" and rows[-1]["status"] == "Diverged" and rows[-1]["val_loss"] == ""
    assert metrics["population"][3]["best_epoch"] is None
    found = predictions_of(finished)
    times = [part["time"].tolist() for _, part in found.groupby("member")]
    assert len(times) == 4 and all(each == times[0] for each in times)
    assert found.loc[found["member"] == 3, "probability"].isna().all()
    assert found.loc[found["member"] != 3, "probability"].between(0, 1).all()
    assert (finished.base / "output/data/report.html").exists()
    assert "1. member " in finished.output and f"best_val_loss={metrics['best']['val_loss']:.6g}" in finished.output


def test_a_job_that_is_killed_ends_in_the_same_bytes(finished, tmp_path, market):
    job = JobFolder(tmp_path / "ml", POPULATION, channel=market, checkpoints=True)
    process = job.start(TRAINING_JOB_NAME="many")
    wait_for_checkpoint(process, job)
    process.kill()
    process.communicate()
    assert job.run(TRAINING_JOB_NAME="many") == 0, job.errors
    assert "resuming in epoch" in job.output
    name = "model/fx_btc_jpy_model.h5"
    assert (job.base / name).read_bytes() == (finished.base / name).read_bytes()
    pd.testing.assert_frame_equal(predictions_of(job), predictions_of(finished))


def test_a_job_that_is_stopped_leaves_the_best_model_so_far_and_says_which_member(tmp_path, market):
    job = JobFolder(tmp_path / "ml", POPULATION | {"epochs": 100_000}, channel=market)
    process = job.start()
    wait_for(process, "epoch=2/")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped: the best model so far is in" in output
    statuses = [each["status"] for each in job.metrics["population"]]
    assert statuses == ["Stopped"] * 3 + ["Diverged"]
    assert keras.models.load_model(job.base / "model/model.keras").count_params()
    assert (job.base / "output/data/leaderboard.csv").exists()


def test_a_population_that_cannot_be_is_refused_before_anything_expensive(tmp_path, market):
    points = json.dumps([{"batch_size": 64}])
    job = JobFolder(tmp_path / "ml", SMALL | {"points": points}, channel=market)
    assert job.run() != 0
    assert job.failure.startswith("hyperparameter batch_size is one value for all members of a population")
    assert "device:" not in job.output and "read:" not in job.output
