"""The job as a process, on a folder as /opt/ml."""

import json
import re
import signal
import subprocess
import sys

import boto3
import h5py
import keras
import kydb
import numpy as np
import pandas as pd
import pytest

import peak_memory
from job_folder import SMALL, TRAIN, JobFolder, wait_for, wait_for_checkpoint
from kydb_servers import make_table
from ml.data.sample_market import sample_market
from ml.metrics import METRICS
from ml.timeseries import time_series

KEY = "/symbols/ml/training_data/FX_BTC_JPY"
MODEL_KEY = "/ml/models/fx_btc_jpy_model.h5"
TESTED = SMALL | {"test_fraction": 0.1}


@pytest.fixture(scope="module")
def market():
    return sample_market(rows=6000, seed=3)


@pytest.fixture
def prices(files_url, market):
    """Hyperparameters of a small job whose prices are in KYDB and whose model goes there."""
    time_series(kydb.connect(files_url), KEY).replace(market)
    return SMALL | {"prices_db": files_url, "prices_key": KEY, "model_db": files_url, "model_key": MODEL_KEY}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, market):
    """A job whose prices were in KYDB, over, for tests that only read what it left; `published` is what KYDB has."""
    folder = tmp_path_factory.mktemp("finished")
    url = f"files:/{folder}/kydb"
    time_series(kydb.connect(url), KEY).replace(market)
    job = JobFolder(
        folder / "ml", TESTED | {"prices_db": url, "prices_key": KEY, "model_db": url, "model_key": MODEL_KEY}
    )
    (job.base / "output/failure").write_text("of an earlier run")
    assert job.run(TRAINING_JOB_NAME="nightly") == 0, job.errors
    job.published = kydb.connect(url).read(MODEL_KEY, reload=True)
    return job


def test_a_job_leaves_a_measured_model_in_both_places(finished):
    assert not (finished.base / "output/failure").exists()
    left = sorted(
        str(path.relative_to(finished.base / "model"))
        for path in (finished.base / "model").rglob("*")
        if path.is_file() and "variables" not in path.parts
    )
    assert left == [
        "1/fingerprint.pb",
        "1/saved_model.pb",
        "fx_btc_jpy_model.h5",
        "job.json",
        "metrics.json",
        "model.keras",
    ]
    assert finished.published == (finished.base / "model/fx_btc_jpy_model.h5").read_bytes()
    assert finished.metrics["published"] is True and finished.metrics["job"] == "nightly"
    assert len(finished.metrics["daily"]["model"]) == len(finished.metrics["daily"]["best_rule"]) > 0
    first = finished.output.index(finished.metrics["performance"]["decided_verdict"])
    assert 0 < first < finished.output.index(finished.metrics["performance"]["verdict"])
    assert list((finished.base / "output/tensorboard").glob("events*"))
    record = json.loads((finished.base / "model/job.json").read_text())
    assert record["settings"]["lookback"] == 60 and record["data"]["rows"] == 5700
    assert record["data"]["validation_rows"] == record["data"]["test_rows"] == 570
    assert record["data"]["train_rows"] == 5700 - 2 * (570 + 60 + 300)


def test_the_log_gives_back_the_numbers_in_metrics_json(finished):
    for name, metric in METRICS.items():
        printed = [float(text) for text in re.findall(metric.regex, finished.output, re.MULTILINE)]
        kept = [finished.metrics["performance"]["metrics"]] if metric.once else finished.metrics["epochs"]
        assert [None if value != value else value for value in printed] == [numbers[name] for numbers in kept], name
    assert "\r" not in finished.output and "\b" not in finished.output


def test_prices_from_a_channel_and_from_kydb_train_the_same_model(tmp_path, finished, market):
    dates = {"start_date": "0001-01-01", "end_date": "9999-12-31"}
    other = JobFolder(tmp_path / "ml", TESTED | dates, channel={"b.parquet": market[3000:], "a.parquet": market[:3000]})
    assert other.run() == 0, other.errors
    weights = []
    for job in (finished, other):
        with h5py.File(job.base / "model/fx_btc_jpy_model.h5") as file:
            weights.append(file["model_weights/hidden_1/position/hidden_1/kernel"][:])
    np.testing.assert_array_equal(*weights)
    assert other.metrics["published"] is None


def test_without_validation_the_last_epoch_is_kept(tmp_path, market):
    job = JobFolder(tmp_path / "ml", SMALL | {"validation_fraction": 0}, channel={"p.parquet": market})
    assert job.run() == 0, job.errors
    assert job.metrics["best_epoch"] == 2 and "val_loss" not in job.metrics["epochs"][0]


def test_the_published_model_beats_a_coin_on_prices_it_has_not_seen(tmp_path, files_url):
    time_series(kydb.connect(files_url), KEY).replace(sample_market(rows=30_000, seed=5))
    job = JobFolder(
        tmp_path / "ml",
        {"prices_db": files_url, "model_db": files_url, "lookback": 240, "nodes": 64, "epochs": 6, "batch_size": 256},
    )
    assert job.run() == 0, job.errors
    assert job.metrics["best"]["val_accuracy"] > 0.6


# Mistakes: each ends in one line, the same first in output/failure, non-zero, and nothing in KYDB


def without_write_permission(request):
    """A KYDB folder in which nothing can be written, whoever asks: its place is taken by a file."""
    path = request.getfixturevalue("tmp_path") / "occupied"
    path.write_text("")
    return f"files:/{path}"


MISTAKES = {
    "unknown hyperparameter": ({"lookbak": 60}, "unknown hyperparameter lookbak; did you mean lookback?"),
    "out of range": ({"dropout": 1.5}, "hyperparameter dropout must be in [0, 1), received '1.5'"),
    "not a number": ({"dropout": "high"}, "hyperparameter dropout must be a number, received 'high'"),
    "missing key": (
        {"prices_key": "/symbols/ml/training_data/FX_BTC_USD"},
        "there is no price history /symbols/ml/training_data/FX_BTC_USD in files:",
    ),
    "unreachable KYDB": (
        {"prices_db": "redis://127.0.0.1:1/x", "read_seconds": 2},
        "cannot be read: ConnectionError",
    ),
    "lookback too large": ({"lookback": 1000}, "lookback 1,000 is larger than the validation part: 570 of 5,700 rows"),
    "fewer rows than a window": ({"lookback": 9000}, "5,700 rows of prices are fewer than the 9,000 of one window"),
    "no moment of UTC": ({"end_date": "9999-12-31T23:59-05:00"}, "end_date must be a date such as 2020-06-01"),
    "a step size that diverges": (
        {"optimizer": "sgd", "learning_rate": 100, "weight_decay": 1, "warmup_steps": 0, "monitor": "val_accuracy"},
        "training diverged: the loss is not a finite number",
    ),
    "no rows between the dates": ({"end_date": "2001-01-01"}, "has no rows; check start_date and end_date"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_is_done(tmp_path, prices, files_url, mistake):
    change, message = MISTAKES[mistake]
    job = JobFolder(tmp_path / "ml", prices | change)
    assert job.run() not in (0, None)
    assert_told(job, message, files_url)


def assert_told(job, message, files_url=None):
    assert message in job.failure and "\n" not in job.failure and len(job.failure) <= 1024
    assert f"error: {job.failure}\n" in job.errors
    assert "Traceback" not in job.failure
    assert not list((job.base / "model").iterdir())
    if files_url:
        db = kydb.connect(files_url)
        assert not db.exists(MODEL_KEY)


def test_a_place_that_may_not_be_written_is_told_before_training(tmp_path, prices, request):
    job = JobFolder(tmp_path / "ml", prices | {"model_db": without_write_permission(request)})
    assert job.run() != 0
    assert_told(job, f"cannot be published to files:/{tmp_path}/occupied {MODEL_KEY}")


def test_a_bucket_that_refuses_is_told_before_training(tmp_path, prices, aws):
    job = JobFolder(tmp_path / "ml", prices | {"model_db": "s3://no-such-bucket-here"})
    assert job.run() != 0
    assert_told(job, f"the model cannot be published to s3://no-such-bucket-here {MODEL_KEY}")


def broken_channels(market):
    yield "empty channel", {}, "channel train has no price files"
    yield "unreadable Parquet", {"p.parquet": b"PAR1 is not enough"}, "p.parquet is cut off or damaged"
    yield (
        "unsorted",
        {"p.parquet": pd.concat([market[3000:], market[:3000]])},
        "times go backwards in 1 of 6,000 rows, the first at row 3,001 (2019-01-01 00:00:00+00:00)",
    )
    yield (
        "contradicting",
        {"p.parquet": pd.concat([market[:5], 2 * market[4:5], market[5:]])},
        "1 time comes twice with different values, the first is 2019-01-01 00:04:00+00:00",
    )
    yield (
        "a price below 0",
        {"p.parquet": market.assign(mid=market["mid"].where(market.index != market.index[7], -1))},
        "mid is not above 0 in 1 of 6,000 rows, the first at row 8 (2019-01-01 00:07:00+00:00) (-1.0)",
    )


@pytest.mark.parametrize("case", range(5))
def test_a_broken_channel_is_told(tmp_path, market, case):
    _, files, message = list(broken_channels(market))[case]
    job = JobFolder(tmp_path / "ml", SMALL, channel=files)
    assert job.run() != 0
    assert_told(job, message)


def test_a_job_without_prices_says_how_to_name_them(tmp_path):
    job = JobFolder(tmp_path / "ml", SMALL)
    assert job.run() != 0
    assert_told(job, "there are no prices: prices_db is empty and there is no channel train (channels: none)")


def test_an_idle_gpu_is_refused_unless_allowed(tmp_path, market):
    job = JobFolder(tmp_path / "a", SMALL, channel={"p.parquet": market}, instance_type="ml.g5.xlarge")
    assert job.run() != 0
    assert_told(job, "the instance type is ml.g5.xlarge but TensorFlow sees no GPU")
    job = JobFolder(
        tmp_path / "b", SMALL | {"allow_cpu": "true"}, channel={"p.parquet": market}, instance_type="ml.g5.xlarge"
    )
    assert job.run() == 0, job.errors


# Ends that come too early


def stopped(process, number=signal.SIGTERM):
    """Signals a job, which must end well within 30 s; returns the rest of its output."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_keeps_the_best_model_and_publishes_nothing(tmp_path, prices, files_url, number):
    job = JobFolder(tmp_path / "ml", prices | {"epochs": 100_000})
    process = job.start()
    wait_for(process, "epoch=2/")
    output = stopped(process, number)
    assert "nothing was published" in output
    assert job.metrics["stopped"] is True and job.metrics["published"] is None
    # A search counts it as a try all the same.
    assert len(job.metrics["daily"]["days"]) == len(job.metrics["daily"]["model"]) > 0
    assert "best_rule" not in job.metrics["daily"]
    keras.saving.load_model(job.base / "model/model.keras")
    assert not kydb.connect(files_url).exists(MODEL_KEY)


def test_a_stop_before_an_epoch_is_over_says_what_the_model_is(tmp_path, prices, files_url):
    job = JobFolder(tmp_path / "ml", prices | {"batch_size": 1, "nodes": 256})
    process = job.start()
    wait_for(process, "running: step 1 of")
    output = stopped(process)
    assert "stopped: a model of less than an epoch, not measured, is in" in output
    assert job.metrics["best_epoch"] == 0 and not kydb.connect(files_url).exists(MODEL_KEY)


@pytest.mark.parametrize("db", ["prices_db", "model_db"])
def test_a_stop_ends_the_waiting_for_a_database(tmp_path, prices, db):
    job = JobFolder(tmp_path / "ml", prices | {db: "redis://127.0.0.1:1/x", "read_seconds": 600})
    process = job.start()
    wait_for(process, "is tried again for 600 s")
    output = stopped(process)
    assert "stopped before training began: there is no model" in output
    assert not (job.base / "output/failure").exists() and not list((job.base / "model").iterdir())


def test_a_stop_while_the_program_is_imported_is_heard(tmp_path, prices):
    job = JobFolder(tmp_path / "ml", prices)
    code = """
import runpy, signal, sys
class StopAtOurs:
    def find_spec(name, *_):
        if name == "ml":
            signal.raise_signal(signal.SIGTERM)
sys.meta_path.insert(0, StopAtOurs)
runpy.run_path(sys.argv[1], run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, TRAIN],
        env=job.command(environment={})[1],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "stopped before training began: there is no model\n"), done.stderr


def test_a_killed_job_resumes_to_the_same_weights(tmp_path, market):
    settings = SMALL | {"epochs": 400, "checkpoint_seconds": 1, "nodes": 64}
    whole = JobFolder(tmp_path / "whole", settings, channel={"p.parquet": market})
    killed = JobFolder(tmp_path / "killed", settings, channel={"p.parquet": market}, checkpoints=True)
    assert whole.run() == 0, whole.errors
    process = killed.start()
    wait_for_checkpoint(process, killed)
    process.kill()
    process.communicate()
    assert killed.run() == 0, killed.errors
    assert "resuming in epoch" in killed.output
    ours, theirs = (keras.saving.load_model(job.base / "model/model.keras").get_weights() for job in (killed, whole))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_database_that_fails_at_the_end_does_not_lose_the_model(tmp_path, market, redis_address):
    # The database accepts the probe, and is full by the time the model comes.
    import redis

    server = redis.Redis(*redis_address.split(":"))
    job = JobFolder(
        tmp_path / "ml",
        SMALL | {"model_db": f"redis://{redis_address}/full", "publish_seconds": 4},
        channel={"p.parquet": market},
    )
    process = job.start()
    try:
        wait_for(process, "device:")
        server.config_set("maxmemory", "1kb")
        output, errors = process.communicate(timeout=150)
    finally:
        server.config_set("maxmemory", "0")
    assert process.returncode == 0, errors
    assert "NOT PUBLISHED: publishing to redis://" in output
    assert job.metrics["published"] is False
    assert (job.base / "model/fx_btc_jpy_model.h5").stat().st_size > 0


def test_the_model_is_published_to_s3_from_prices_in_dynamodb(tmp_path, aws, market):
    make_table("production")
    boto3.client("s3").create_bucket(Bucket="production-models")
    time_series(kydb.connect("dynamodb://production/timeseries"), KEY).replace(market)
    job = JobFolder(
        tmp_path / "ml",
        SMALL
        | {"prices_db": "dynamodb://production/timeseries", "prices_key": KEY, "model_db": "s3://production-models"},
    )
    assert job.run() == 0, job.errors
    published = kydb.connect("s3://production-models").read(MODEL_KEY, reload=True)
    assert published == (job.base / "model/fx_btc_jpy_model.h5").read_bytes()


def test_three_years_of_real_prices_fit_into_a_gigabyte_and_a_half(tmp_path, shared):
    prices = (shared / "data/xbtusd_minutely_2017-06_2020-06.parquet").read_bytes()
    job = JobFolder(
        tmp_path / "ml",
        {"lookback": 1440, "nodes": 16, "epochs": 1, "batch_size": 4400, "spread": 0.5},
        channel={"p.parquet": prices},
    )
    command, environment = job.command(environment={})
    peak = tmp_path / "peak"
    done = subprocess.run(
        [sys.executable, peak_memory.__file__, peak, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1,621,140 of 1,621,440 bars" in done.stdout
    assert float(peak.read_text()) < 1.5
