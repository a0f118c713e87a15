"""Faults, each injected for real into a running job: disks, memory, servers. What must be lost, and what never.

fault                                            the job
model/ full or read-only from the start          refuses before it trains
model/ full when the model is saved              fails, earlier model untouched, the model is in KYDB
checkpoints/ full                                completes, says so once, earlier checkpoint untouched
checkpoints/, output/ read-only                  completes
memory too small                                 refuses before it trains, with both figures
prices: server refuses                           fails within its patience
prices: server accepts and never answers         fails within its patience
prices: S3 cuts connections, or answers 503      goes on once it recovers; else fails and says what
prices: S3 is slow                               completes
model: redis killed, comes back                  completes, published
model: redis killed, stays away                  completes, NOT PUBLISHED, `publish` finishes it
model: S3 hangs, cuts or answers 503             completes; published once it recovers, else NOT PUBLISHED
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import kydb
import pytest

from injected import CONTAINER
from job_folder import SMALL, JobFolder, wait_for, wait_for_checkpoint
from kydb_servers import free_port, start_redis
from ml.data.sample_market import sample_market
from ml.databases import connect
from ml.deliver.publishing import publish, version_key
from ml.platform.memory import available_memory, check_memory, needed_memory
from ml.settings import Settings
from ml.timeseries import time_series
from small_disks import fill, mounted

KEY = "/symbols/ml/training_data/FX_BTC_JPY"
MODEL_KEY = "/ml/models/fx_btc_jpy_model.h5"
LONG = SMALL | {"epochs": 100_000, "checkpoint_seconds": 1}
QUICK = {"read_seconds": 4, "publish_seconds": 4, "kydb_timeout": 1}


@pytest.fixture(scope="module")
def market():
    return sample_market(rows=6000, seed=3)


@pytest.fixture
def job(tmp_path, market):
    """Makes a job on the simulated market."""

    def make(settings=SMALL, name="ml", **options):
        return JobFolder(tmp_path / name, settings, **({"channel": {"p.parquet": market}} | options))

    return make


def ended(process, seconds=120):
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


# Disks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "ro"), "/model cannot be written: Read-only file system; the model would be lost"),
        (("-o", "size=1m"), "MB free and the model's files need"),
    ],
    ids=["read-only", "full"],
)
def test_a_model_folder_that_cannot_take_the_model_is_told_before_training(job, options, message):
    one = job()
    with mounted(one.base / "model", *options):
        assert one.run() == 1
    assert message in one.failure and "\n" not in one.failure
    assert "device:" not in one.output


# What is left: nothing, and what crashed HDF5 while it wrote the .h5, and after it.
@pytest.mark.parametrize(("published", "left"), [(False, 0), (True, 0), (True, 72_000), (True, 92_000)])
def test_a_disk_that_fills_up_before_the_model_is_saved_costs_neither_model_nor_the_earlier_one(
    job, files_url, published, left
):
    one = job(SMALL | {"epochs": 300, "model_db": files_url if published else ""}, checkpoints=True)
    with mounted(one.base / "model", "-o", "size=6m") as folder:
        (folder / "model.keras").write_text("earlier")
        (folder / "fx_btc_jpy_model.h5").write_text("earlier")
        process = one.start()
        wait_for(process, "device:")
        fill(folder, left)
        code, _, errors = ended(process)
        assert code == 1, errors
        assert (folder / "model.keras").read_text() == (folder / "fx_btc_jpy_model.h5").read_text() == "earlier"
        assert sorted(path.name for path in folder.iterdir()) == ["filler", "fx_btc_jpy_model.h5", "model.keras"]
    assert "the model cannot be saved in" in one.failure and f"{left / 1e6:.1f} MB free" in one.failure
    if published:
        assert f"it was published to {files_url} {MODEL_KEY}" in one.failure
        assert connect(files_url)[MODEL_KEY].startswith(b"\x89HDF")
        return
    assert "a job on the checkpoints in" in one.failure
    assert one.run() == 0, one.errors  # the disk is gone, and nothing is trained again
    assert one.output.count("epoch=") == 0 and (one.base / "model/model.keras").stat().st_size > 1000


def test_a_full_disk_for_checkpoints_is_told_once_and_ends_no_training(job):
    one = job(SMALL | {"epochs": 1500, "checkpoint_seconds": 1}, checkpoints=True)
    with mounted(one.base / "checkpoints", "-o", "size=1m") as folder:
        process = one.start()
        wait_for_checkpoint(process, one)
        fill(folder)
        code, output, errors = ended(process)
        assert code == 0, errors
        left = [path for path in folder.rglob("*.ckpt") if path.name.startswith("0")]
        assert left and all(path.stat().st_size > 1000 for path in left)
        assert not list(folder.rglob(".writing-*"))
    assert output.count("NO CHECKPOINT could be written, and training goes on: [Errno 28]") == 1
    assert one.metrics["stopped"] is False and len(one.metrics["epochs"]) == 1500


@pytest.mark.parametrize("folder", ["checkpoints", "output"])
def test_other_folders_that_cannot_be_written_end_no_training(job, folder):
    one = job(checkpoints=True)
    with mounted(one.base / folder, "-o", "ro"):
        assert one.run() == 0, one.errors
    assert one.metrics["best_epoch"] and (one.base / "model/model.keras").is_file()
    assert ("NO CHECKPOINT" if folder == "checkpoints" else "no TensorBoard logs") in one.output


# Memory


def test_a_training_that_does_not_fit_is_refused_with_both_figures(job):
    one = job(SMALL | {"nodes": 20_000, "layers": 3})
    assert one.run() == 1
    assert "training needs about " in one.failure and " are left of the " in one.failure
    assert "use a larger instance, or a smaller batch_size, network or span of dates" in one.failure
    assert "device:" not in one.output


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_containers_limit_counts_without_the_files_it_caches(tmp_path, version):
    folder = tmp_path / "sys/fs/cgroup" / ("memory" if version == "v1" else "")
    folder.mkdir(parents=True)
    limit, usage, cache = {
        "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        "v2": ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / limit).write_text("2000000000\n")
    (folder / usage).write_text("1500000000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{cache} 500000000\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable:    6000000 kB\n")
    assert available_memory(tmp_path) == (1_000_000_000, "the container's limit of 2.00 GB")
    (folder / limit).write_text("max\n" if version == "v2" else f"{2**63 - 4096}\n")
    assert available_memory(tmp_path) == (6_144_000_000, "the machine's memory of 8.19 GB")
    assert available_memory(tmp_path / "elsewhere")[0] > 1e18


MEASURED = """
import os, re, ml.platform.memory
def resident(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
def check(settings, rows, **_):
    global before
    before, needed = resident("VmRSS"), ml.platform.memory.needed_memory(settings, rows)
    print("needed", needed, flush=True)
ml.platform.memory.check_memory = check
import train
train.main()
print("took", resident("VmHWM") - before, flush=True)
"""


@pytest.mark.parametrize("settings", [{}, {"nodes": 3000, "batch_size": 1024}], ids=["default", "large"])
def test_the_estimate_is_what_a_job_takes(job, settings):
    one = job(settings | {"epochs": 1}, channel={"p.parquet": sample_market(rows=30_000, seed=3)}, checkpoints=True)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SAGEMAKER_BASE_DIR": str(one.base), "PYTHONPATH": "container"},
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    needed, took = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith(("needed ", "took ")))
    assert 0.8 < needed / took < 1.5, f"estimated {needed:,}, took {took:,}"


def test_more_of_anything_needs_more():
    base = needed_memory(Settings(), 100_000)
    for change in ({"nodes": 2048}, {"layers": 3}, {"batch_size": 8192}, {"lookback": 2880}):
        assert needed_memory(Settings(**change), 100_000) > base
    assert needed_memory(Settings(), 200_000) > base > needed_memory(Settings(optimizer="sgd"), 100_000)
    check_memory(Settings(nodes=16), 1000)


# Servers that fail, for prices and for models


class Server:
    """A loopback proxy before a real server, which can be made to fail.

    Attributes:
        mode: well, hang (accepts, never answers), cut (closes at once), 503, slow (a second an answer).
    """

    def __init__(self, target: tuple[str, int]):
        self.mode, self._target, self.seen = "well", target, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        kept = []
        while True:
            with contextlib.suppress(OSError):
                client, _ = self._socket.accept()
                self.seen += self.mode != "well"
                kept.append(client)
                threading.Thread(target=self._answer, args=(client, self.mode), daemon=True).start()

    def _answer(self, client, mode):
        with contextlib.suppress(OSError):
            if mode == "hang":
                return
            if mode == "cut":
                client.close()
                return
            request = client.recv(1 << 20)
            if mode == "503":
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            with socket.create_connection(self._target) as server:
                # One request a connection, so that a change of mode is felt at once.
                server.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
                while chunk := server.recv(1 << 16):
                    if mode == "slow":
                        time.sleep(0.2)
                    client.sendall(chunk)
            client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pump(source, target):
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                target.sendall(chunk)


@pytest.fixture
def s3(aws, monkeypatch):
    """A proxy before moto's server, and boto3 here and in jobs pointed at it; with an empty bucket `market`."""
    host, port = aws.removeprefix("http://").split(":")
    proxy = Server((host, int(port)))
    bucket = f"market-{proxy.port}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    proxy.url = f"s3://{bucket}"
    proxy.environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
    return proxy


@pytest.fixture
def priced(job, s3, market):
    """Makes a job that reads its prices from S3 behind the proxy."""
    time_series(kydb.connect(s3.url), KEY).replace(market)
    return lambda **settings: job(SMALL | QUICK | {"prices_db": s3.url, "prices_key": KEY} | settings, channel=None)


@pytest.mark.parametrize("mode", ["hang", "cut", "503"])
def test_prices_that_cannot_be_had_end_a_job_within_its_patience(priced, s3, mode):
    one = priced()
    s3.mode = mode
    began = time.monotonic()
    assert one.run(**s3.environment) == 1
    assert time.monotonic() - began < 45 and s3.seen > 1
    assert f"the price history {KEY} in {s3.url} cannot be read: " in one.failure and "\n" not in one.failure
    assert {"hang": "Timeout", "cut": "Connection", "503": "503"}[mode].lower() in one.failure.lower()
    assert mode == "hang" or "tried again for 4 s" in one.output  # one attempt that hangs takes the four seconds


@pytest.mark.parametrize("mode", ["cut", "503"])
def test_a_job_waits_for_prices_whose_server_recovers(priced, s3, mode):
    one = priced(read_seconds=60)
    s3.mode = mode
    process = one.start(**s3.environment)
    wait_for(process, "tried again for 60 s")
    s3.mode = "well"
    code, output, errors = ended(process)
    assert code == 0, errors
    assert "epoch=2/2" in output


def test_slow_prices_are_waited_for(priced, s3):
    one = priced()
    s3.mode = "slow"
    assert one.run(**s3.environment) == 0, one.errors
    assert s3.seen > 2


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
@pytest.mark.parametrize("scheme", ["redis", "http"])
def test_a_server_that_refuses_or_hangs_is_told(job, scheme, kind):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] if kind == "hangs" else free_port()
        one = job(SMALL | QUICK | {"prices_db": f"{scheme}://127.0.0.1:{port}/x"}, channel=None)
        began = time.monotonic()
        assert one.run(POSITION_TRAINER_KYDB_SCHEMES="http") == 1
    assert time.monotonic() - began < 30
    assert f"in {scheme}://127.0.0.1:{port}/x cannot be read: " in one.failure
    assert ("Timeout" if kind == "hangs" else "Connection") in one.failure


@pytest.mark.parametrize("mode", ["hang", "cut", "503"])
@pytest.mark.parametrize("recovers", [True, False])
def test_a_model_outlives_an_s3_that_fails_when_it_is_published(job, s3, mode, recovers):
    one = job(SMALL | QUICK | {"model_db": s3.url, "publish_seconds": 60 if recovers else 3})
    process = one.start(**s3.environment)
    wait_for(process, "device:")
    s3.mode = mode
    if recovers:
        wait_for(process, "tried again for 60 s")
        s3.mode = "well"
    code, output, errors = ended(process)
    assert code == 0, errors
    content = (one.base / "model/fx_btc_jpy_model.h5").read_bytes()
    assert one.metrics["published"] is recovers and ("NOT PUBLISHED: " in output) is not recovers
    if recovers:
        assert kydb.connect(s3.url).read(MODEL_KEY, reload=True) == content


@pytest.mark.parametrize("back", [True, False])
def test_a_model_outlives_a_redis_that_is_killed(job, tmp_path, launch, back):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    port = free_port()
    server = start_redis(tmp_path, port)
    url = f"redis://127.0.0.1:{port}/models"
    # As a job of the launcher's, so that its `publish` can finish the work.
    process = launch.start(
        "train",
        "--name",
        "one",
        "--channel",
        f"train={job().base}/input/data/train",
        *(
            part
            for name, value in (SMALL | QUICK | {"model_db": url, "publish_seconds": 60 if back else 3}).items()
            for part in ("--set", f"{name}={value}")
        ),
    )
    try:
        wait_for(process, "device:")
        server.send_signal(signal.SIGKILL)
        server.wait()
        if back:
            wait_for(process, "tried again for 60 s")
            server = start_redis(tmp_path, port)
        code, output, errors = ended(process)
        assert code == 0, output + errors
        metrics = json.loads((launch.runs / "one/model/metrics.json").read_text())
        assert metrics["published"] is back
        if not back:
            assert "NOT published to KYDB: python sagemaker/launch.py publish one" in output
            server = start_redis(tmp_path, port)
            assert "published " in launch("publish", "one")
        content = (launch.runs / "one/model/fx_btc_jpy_model.h5").read_bytes()
        db = connect(url)
        assert db.read(MODEL_KEY, reload=True) == content
        assert json.loads(db[f"{version_key(MODEL_KEY, content)}.json"])["job"] == "one"
    finally:
        server.kill()
        server.wait()


def test_a_stop_while_a_model_waits_to_be_published_ends_the_job_within_thirty_seconds(job, s3):
    one = job(SMALL | QUICK | {"model_db": s3.url, "publish_seconds": 600})
    process = one.start(**s3.environment)
    wait_for(process, "device:")
    s3.mode = "503"
    wait_for(process, "tried again for 600 s")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, output, errors = ended(process)
    assert code == 0 and time.monotonic() - began < 30, errors
    assert "NOT PUBLISHED" in output and (one.base / "model/model.keras").is_file()


def test_a_stop_ends_a_training_within_thirty_seconds_with_checkpoint_and_model(job):
    one = job(LONG | {"checkpoint_seconds": 86400, "nodes": 1024, "lookback": 400}, checkpoints=True)
    process = one.start()
    wait_for_checkpoint(process, one)
    before = {path.name for path in (one.base / "checkpoints/local").iterdir()}
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    assert code == 0 and time.monotonic() - began < 30, errors
    assert {path.name for path in (one.base / "checkpoints/local").iterdir()} - before
    assert one.metrics["stopped"] is True and (one.base / "model/model.keras").is_file()


# What is published stays


def test_a_model_of_another_lookback_is_not_replaced_and_nothing_is_trained(job, files_url):
    original = b"\x89HDF\r\n\x1a\n" + b'{"batch_input_shape": [null, 1440]}'
    publish(files_url, MODEL_KEY, original, "monday")
    one = job(SMALL | {"model_db": files_url})
    assert one.run() == 1
    assert f"{MODEL_KEY} holds a model that takes 1440 prices, and this one takes 60" in one.failure
    assert "replace_lookback=true" in one.failure and "device:" not in one.output
    other = job(SMALL | {"model_db": files_url, "replace_lookback": "true"}, name="other")
    assert other.run() == 0, other.errors
    content = (other.base / "model/fx_btc_jpy_model.h5").read_bytes()
    record = json.loads(connect(files_url).read(f"{version_key(MODEL_KEY, content)}.json", reload=True))
    assert record["lookback"] == 60 and record["verdict"] == other.metrics["performance"]["verdict"]
    assert record["data_sha256"] == json.loads((other.base / "model/job.json").read_text())["data"]["sha256"]


FAILS_TO_MEASURE = """
import ml.judge.performance
def measure(*_):
    raise RuntimeError("no measuring today")
ml.judge.performance.measure = measure
import train
train.main()
"""


def test_a_model_that_cannot_be_measured_is_published_all_the_same(job, files_url):
    one = job(SMALL | {"model_db": files_url})
    done = subprocess.run(
        [sys.executable, "-c", FAILS_TO_MEASURE],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SAGEMAKER_BASE_DIR": str(one.base), "PYTHONPATH": str(CONTAINER)},
    )
    assert done.returncode == 0, done.stderr
    assert "NO REPORT: RuntimeError: no measuring today" in done.stdout
    assert one.metrics["published"] is True
    content = (one.base / "model/fx_btc_jpy_model.h5").read_bytes()
    assert connect(files_url).read(MODEL_KEY, reload=True) == content
    record = json.loads(connect(files_url).read(f"{version_key(MODEL_KEY, content)}.json", reload=True))
    assert record["lookback"] == 60 and record["verdict"] is None


def test_the_earlier_model_and_who_made_each_stay(kydb_url):
    db = connect(kydb_url)
    magic = b"\x89HDF\r\n\x1a\n"
    db["/m/x.h5"] = magic + b"by another program"
    for job_name in ("monday", "tuesday"):
        publish(kydb_url, "/m/x.h5", magic + job_name.encode(), job_name, patience=0)
    assert db.read("/m/x.h5", reload=True) == magic + b"tuesday"
    assert db.ls("/m") == ["x.h5"]
    for content, job_name in ((b"by another program", "unknown"), (b"monday", "monday"), (b"tuesday", "tuesday")):
        version = version_key("/m/x.h5", magic + content)
        assert db.read(version, reload=True) == magic + content
        assert json.loads(db.read(f"{version}.json", reload=True))["job"] == job_name


def test_what_is_no_model_is_not_published_over(tmp_path, market):
    url = f"files:/{tmp_path}/kydb"
    time_series(connect(url), KEY).replace(market)
    with pytest.raises(ValueError, match="holds a TimeSeries and not a model; set model_key to another key"):
        publish(url, KEY, b"\x89HDF\r\n\x1a\nmodel", "job", patience=0)
    assert len(connect(url).read(KEY, reload=True).curve()) == len(market)
