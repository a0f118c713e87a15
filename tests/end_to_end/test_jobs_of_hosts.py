"""Jobs of several hosts: real processes on loopback, with the resourceconfig.json that SageMaker writes."""

import json
import re
import signal
import socket
import time

import keras
import kydb
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from chaos import weights_of
from host_jobs import HostJobs, kill
from job_folder import SMALL, JobFolder, wait_for_checkpoint
from ml.data.sample_market import sample_market
from ml.metrics import METRICS

PRECISE = SMALL | {"precision": "float32"}
LONG = PRECISE | {"epochs": 150, "batch_size": 256, "checkpoint_seconds": 1, "tensorboard": "false"}
KEY = "/models/m.h5"


@pytest.fixture(scope="module")
def market():
    return {"p.parquet": sample_market(rows=6000, seed=3)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, market):
    """A job of two hosts that has published its model, over, for tests that only read what it left."""
    folder = tmp_path_factory.mktemp("hosts")
    url = f"files:/{folder}/kydb"
    hosts = HostJobs(folder, PRECISE | {"model_db": url, "model_key": KEY}, channel=market)
    assert hosts.run() == [0, 0], hosts.errors
    hosts.published = kydb.connect(url).read(KEY, reload=True)
    return hosts


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, market):
    """The weights of a longer job of two hosts."""
    hosts = HostJobs(tmp_path_factory.mktemp("uninterrupted"), LONG, channel=market)
    assert hosts.run() == [0, 0], hosts.errors
    return weights_of(hosts.first)


def test_two_hosts_measure_what_one_does(tmp_path, finished, market):
    one = JobFolder(tmp_path / "ml", PRECISE, channel=market)
    assert one.run() == 0, one.errors
    for ours, theirs in zip(finished.first.metrics["epochs"], one.metrics["epochs"], strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name


def test_the_first_host_alone_reports_saves_and_publishes(finished):
    first, second = finished.jobs
    assert first.metrics["published"] is True
    assert finished.published == (first.base / "model/m.h5").read_bytes()
    assert list((first.base / "checkpoints").rglob("*.ckpt")) and list((first.base / "output/tensorboard").glob("*"))
    assert not list((second.base / "model").rglob("*")) and not list((second.base / "checkpoints").rglob("*"))
    assert not list((second.base / "output/data").rglob("*")) and not (second.base / "output/tensorboard").exists()
    printed = [name for name, metric in METRICS.items() if re.search(metric.regex, second.output, re.MULTILINE)]
    assert printed == []


def test_the_saved_model_needs_no_other_host(finished):
    model = finished.first.base / "model"
    prices = 100 + np.random.default_rng(1).normal(size=(5, 60)).cumsum(axis=1)
    low, high = prices.min(axis=1, keepdims=True), prices.max(axis=1, keepdims=True)
    expected = keras.models.load_model(model / "m.h5", compile=False).predict((prices - low) / (high - low), verbose=0)
    served = tf.saved_model.load(str(model / "1")).signatures["serving_default"](tf.constant(prices))
    np.testing.assert_allclose(next(iter(served.values())), expected, atol=1e-5)


def test_folds_are_shared_out_and_measure_the_same(tmp_path, market):
    settings = SMALL | {"folds": 3}
    hosts = HostJobs(tmp_path, settings, channel=market)
    one = JobFolder(tmp_path / "one", settings, channel=market)
    assert hosts.run() == [0, 0] and one.run() == 0, hosts.errors + one.errors
    assert hosts.first.metrics["folds"] == one.metrics["folds"] and len(one.metrics["folds"]) == 3
    assert weights_of(hosts.first) == weights_of(one)
    assert "fold 2 of 3: epoch" in hosts.jobs[1].output and "fold 2 of 3" not in hosts.first.output


def test_members_of_a_population_are_shared_out_and_the_leaderboard_is_the_same(tmp_path, market):
    points = [{"learning_rate": 0.01}, {"nodes": 5}, {"learning_rate": 0.003, "lookback": 20}]
    settings = PRECISE | {"points": json.dumps(points)}
    one = JobFolder(tmp_path / "one", settings, channel=market)
    assert one.run() == 0, one.errors
    several = HostJobs(tmp_path / "several", settings, channel=market)
    assert several.run() == [0, 0], several.errors
    first = several.first
    assert "share out the 3 members" in first.output
    assert first.metrics["member"] == one.metrics["member"] and first.metrics["luck"]["tries"] == 3
    for mine, theirs in zip(first.metrics["population"], one.metrics["population"], strict=True):
        assert mine["settings"] == theirs["settings"] and mine["status"] == "Completed"
        assert mine["metrics"]["val_loss"] == pytest.approx(theirs["metrics"]["val_loss"], abs=1e-4)
    tables = [pd.read_csv(each.base / "output/data/leaderboard.csv") for each in (first, one)]
    assert tables[0]["member"].tolist() == tables[1]["member"].tolist()
    assert not list((several.jobs[1].base / "model").iterdir())


def test_a_sigterm_to_one_host_stops_all_and_the_job_goes_on_where_it_was(tmp_path, market, uninterrupted):
    hosts = HostJobs(tmp_path, LONG, channel=market)
    first, second = hosts.start()
    wait_for_checkpoint(first, hosts.first)
    second.send_signal(signal.SIGTERM)
    assert hosts.end() == [0, 0], hosts.errors
    assert hosts.first.metrics["stopped"] and "nothing was published" in hosts.first.output
    assert hosts.run() == [0, 0], hosts.errors
    assert "resuming" in hosts.first.output
    assert weights_of(hosts.first) == uninterrupted


@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_a_host_ends_the_job_and_the_next_one_goes_on(tmp_path, market, uninterrupted, victim):
    hosts = HostJobs(tmp_path, LONG, channel=market)
    processes = hosts.start()
    wait_for_checkpoint(processes[0], hosts.first)
    kill(processes[victim])
    died = time.monotonic()
    codes = hosts.end()
    assert time.monotonic() - died < 60
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    survivor, name = hosts.jobs[1 - victim], hosts.names[victim]
    assert survivor.failure.startswith(f"host {name} ended without a word")
    assert survivor.errors.splitlines()[-1] == f"error: {survivor.failure}"
    assert not list((hosts.first.base / "model").rglob("*"))
    assert hosts.run() == [0, 0], hosts.errors
    assert "resuming" in hosts.first.output
    assert weights_of(hosts.first) == uninterrupted


def test_a_name_that_is_never_resolved_is_told(tmp_path, market):
    hosts = HostJobs(tmp_path, SMALL | {"hosts_seconds": 1}, channel=market, addresses={"algo-2": "algo-2.invalid"})
    assert hosts.first.run() == 1
    assert hosts.first.failure.startswith("host algo-2 of the job cannot be found: the name algo-2.invalid was not")


def test_a_host_that_does_not_come_is_told(tmp_path, market):
    hosts = HostJobs(tmp_path, SMALL | {"hosts_seconds": 1}, channel=market)
    assert [job.run() for job in hosts.jobs] == [1, 1]
    assert hosts.first.failure.startswith("algo-2 of the job's 2 hosts did not connect to algo-1")
    assert hosts.jobs[1].failure.startswith("algo-1 does not answer at 127.0.0.1")


def test_a_port_in_use_is_told(tmp_path, market):
    hosts = HostJobs(tmp_path, SMALL, channel=market)
    with socket.create_server(("127.0.0.1", hosts.port)):
        assert hosts.first.run() == 1
    assert hosts.first.failure.startswith(f"algo-1 cannot listen on port {hosts.port} of 127.0.0.1")


# Ends the process as SIGKILL does, between the hosts' last word to each other and TensorFlow's connecting.
DYING = """
import os, signal, sys
def dies(event, arguments):
    if event == "os.putenv" and arguments[0] == b"TF_CONFIG":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(dies)
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_dies_while_tensorflow_connects_ends_the_other(tmp_path, market, victim):
    (tmp_path / "sitecustomize.py").write_text(DYING)
    hosts = HostJobs(tmp_path, PRECISE | {"hosts_seconds": 12}, channel=market)
    hosts.processes = [
        job.start(**({"PYTHONPATH": str(tmp_path)} if number == victim else {}))
        for number, job in enumerate(hosts.jobs)
    ]
    assert hosts.end()[victim] == -signal.SIGKILL
    survivor = hosts.jobs[1 - victim]
    assert hosts.processes[1 - victim].returncode == 1, hosts.errors
    assert survivor.failure.startswith(f"TensorFlow did not connect to {hosts.names[victim]} (127.0.0.1:")


def test_hosts_wait_for_one_that_starts_late(tmp_path, market):
    hosts = HostJobs(tmp_path, SMALL, channel=market)
    second = hosts.jobs[1].start()
    time.sleep(5)
    assert second.poll() is None
    hosts.processes = [hosts.first.start(), second]
    assert hosts.end() == [0, 0], hosts.errors


def test_hosts_with_other_prices_are_refused(tmp_path, market):
    hosts = HostJobs(tmp_path, SMALL, channel=market)
    path = hosts.jobs[1].base / "input/data/train/p.parquet"
    market["p.parquet"][:5000].to_parquet(path)
    assert hosts.run() == [1, 1]
    for job in hosts.jobs:
        assert job.failure.startswith("algo-2 has other prices than algo-1")
