"""Starting a job on this machine: whole or not at all, and never under a name that is somebody else's."""

import errno
import fcntl
import http.server
import json
import os
import signal
import subprocess
import threading
import time

import boto3
import moto
import pytest

from launching import REPOSITORY
from ml.errors import UserError
from place.inputs import bring_channel, names_in_channel
from place.local import LocalPlace
from place.staging import staged

STEPS = [
    "place.staging.tempfile.mkdtemp",
    "place.staging.take_lock",
    "place.local.LocalPlace._command",
    "place.local.inputs.bring_channel",
    "place.inputs.copy_file",
    "place.local.LocalPlace._write_config",
    "place.local.write_record",
    "place.staging.Start.commit",
    "place.staging.sync_folder",
    "place.local.spawn",
]
TUNING_STEPS = [
    "place.tuning.inputs.bring_channel",
    "place.tuning.warm_start.differing_files",
    "place.tuning.write_record",
    "place.staging.Start.commit",
    "place.tuning.spawn",
]
ERRORS = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("ours"), KeyboardInterrupt(), UserError("x")]


@pytest.fixture
def prices(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("dt,mid\n2020-01-01T00:00,1\n")
    return path


def request(uri, **more):
    return {
        "TrainingJobName": "one",
        "AlgorithmSpecification": {"TrainingImage": "none", "MetricDefinitions": []},
        "StoppingCondition": {},
        "InputDataConfig": [{"ChannelName": "train", "DataSource": {"S3DataSource": {"S3Uri": uri}}}],
        **more,
    }


def tuning_request(uri, name="t", **more):
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {"Strategy": "Random"},
        "TrainingJobDefinition": request(uri),
        **more,
    }


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", STEPS)
def test_a_start_that_fails_at_any_step_leaves_nothing(tmp_path, prices, monkeypatch, step, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(step, fail)
    place = LocalPlace(tmp_path / "runs")
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)) as raised:
        place.start(request(prices.as_uri()))
    assert list((tmp_path / "runs").iterdir()) == []
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value) and str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", TUNING_STEPS)
def test_a_tuning_job_that_fails_at_any_step_leaves_nothing(tmp_path, prices, monkeypatch, step, error):
    def fail(*_, **__):
        raise error

    place = LocalPlace(tmp_path / "runs")
    parent = tmp_path / "runs" / "p"
    parent.mkdir(parents=True)
    (parent / ".lock").touch()
    ended = {"HyperParameterTuningJobStatus": "Completed", "CreationTime": "2026"}
    (parent / "tuning_job.json").write_text(json.dumps(tuning_request(prices.as_uri(), "p") | ended))
    monkeypatch.setattr(step, fail)
    parents = {"ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "p"}]}
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        place.start_tuning(tuning_request(prices.as_uri(), WarmStartConfig=parents), "")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["p"]


@pytest.mark.slow
def test_a_full_disk_is_told_with_its_path_and_leaves_nothing(launch, tmp_path):
    launch.runs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", launch.runs], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here (root)")
    try:
        (tmp_path / "large.csv").write_bytes(b"x" * 1_000_000)
        for command in ("train", "tune"):
            out = launch(command, *launch.stub, "--channel", f"large={tmp_path}/large.csv", "--name", "one", expect=1)
            last = out.rstrip().splitlines()[-1]
            assert last.startswith(f"error: the channel's {tmp_path}/large.csv cannot be copied to {launch.runs}/")
            assert last.endswith("No space left on device")
            assert list(launch.runs.iterdir()) == []
    finally:
        subprocess.run(["umount", launch.runs], check=True)


@pytest.mark.slow
def test_an_s3_that_cannot_be_reached_leaves_nothing(launch, monkeypatch):
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_ACCESS_KEY_ID", "a")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    out = launch("train", "--prices", "s3://prices/x/", "--name", "one", expect=1)
    assert out.startswith("error: s3://prices/x/ cannot be read: ") and out.count("\n") == 1
    assert list(launch.runs.iterdir()) == []


class _SlowS3(http.server.BaseHTTPRequestHandler):
    """An S3 whose one object never ends."""

    def do_GET(self):
        self.send_response(200)
        if "list-type" in self.path:
            body = b"<ListBucketResult><Contents><Key>x/a.csv</Key><Size>9000000</Size></Contents></ListBucketResult>"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Content-Length", "9000000")
        self.end_headers()
        self.wfile.write(b"dt,mid\n")
        self.wfile.flush()
        self.server.began.set()
        self.server.ended.wait(60)

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "9000000")
        self.send_header("ETag", '"a"')
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_ctrl_c_in_a_slow_download_leaves_nothing(launch, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _SlowS3)
    server.began, server.ended = threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    try:
        process = launch.start("train", "--prices", "s3://prices/x/", "--name", "one")
        assert server.began.wait(30)
        time.sleep(0.2)
        assert [path.name[:10] for path in launch.runs.iterdir()] == [".starting-"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        server.ended.set()
        server.shutdown()
    assert process.returncode not in (0, -signal.SIGINT)
    assert "Traceback" not in err
    assert list(launch.runs.iterdir()) == []


def test_ctrl_c_between_the_name_and_the_process_stops_the_job(tmp_path, prices, monkeypatch):
    stopped = []
    monkeypatch.setattr(LocalPlace, "stop", lambda _, name: stopped.append(name))
    monkeypatch.setattr("place.local.spawn", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        LocalPlace(tmp_path / "runs").start(request(prices.as_uri()))
    assert stopped == ["one"] and (tmp_path / "runs" / "one" / "training_job.json").is_file()


def test_what_a_killed_start_left_is_removed_by_the_next_one(tmp_path):
    runs = tmp_path / "runs"
    abandoned, fresh, held = (runs / f".starting-{name}" for name in ("old", "new", "held"))
    for folder in (abandoned, fresh, held):
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
        if folder is not fresh:
            os.utime(folder, (0, 0))
    with (held / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with staged(runs, "one") as start:
            assert not abandoned.exists() and fresh.exists() and held.exists()
            start.commit()
            start.hand_over()
    assert (runs / "one").is_dir()


def test_a_folder_of_the_users_is_no_free_name(tmp_path, prices):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    with pytest.raises(UserError, match="there is a job one already"):
        LocalPlace(tmp_path / "runs").start(request(prices.as_uri()))
    assert (tmp_path / "runs" / "one").is_dir()


# Channels


def test_a_channel_is_a_copy_that_shares_nothing_with_the_users_file(tmp_path, prices):
    bring_channel(prices.as_uri(), tmp_path / "channel")
    copy = tmp_path / "channel" / "prices.csv"
    assert copy.stat().st_ino != prices.stat().st_ino
    before = copy.read_text()
    prices.write_text("dt,mid\n")
    assert copy.read_text() == before


def test_links_are_followed_hidden_files_left_out_and_loops_end(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for path in (folder / "a.csv", folder / ".env", elsewhere / "b.csv"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("dt,mid\n")
    (folder / "2019").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder)
    (folder / "device.csv").symlink_to("/dev/zero")
    bring_channel(folder.as_uri(), tmp_path / "channel")
    found = sorted(str(path.relative_to(tmp_path / "channel")) for path in (tmp_path / "channel").rglob("*"))
    assert found == ["2019", "2019/b.csv", "a.csv"]


@pytest.mark.parametrize(
    ("prefix", "keys", "names"),
    [
        ("mnist", ["mnist/2019.parquet", "mnist/2020/a.parquet"], ["2019.parquet", "2020/a.parquet"]),
        ("mnist/", ["mnist/2019.parquet"], ["2019.parquet"]),
        ("part/prices", ["part/prices-1.csv", "part/prices-2.csv"], ["prices-1.csv", "prices-2.csv"]),
        ("a/b.parquet", ["a/b.parquet"], ["b.parquet"]),
        ("", ["a.csv", "b/c.csv"], ["a.csv", "b/c.csv"]),
        ("both", ["both", "both/p.parquet"], ["both", "p.parquet"]),
    ],
)
def test_objects_lie_in_a_channel_as_sagemaker_lays_them_out(prefix, keys, names):
    assert list(names_in_channel(keys, prefix)) == names


def test_a_key_that_is_a_file_and_a_folder_starts_nothing(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with moto.mock_aws():
        client = boto3.client("s3", "us-east-1")
        client.create_bucket(Bucket="prices")
        for key in ("h/both", "h/both/p.parquet"):
            client.put_object(Bucket="prices", Key=key, Body=b"x")
        with pytest.raises(UserError, match="'h/both' and 'h/both/p.parquet' cannot both be in one channel"):
            LocalPlace(tmp_path / "runs").start(request("s3://prices/h/"))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_prices_are_several_files_as_a_shell_expands_them(launch, tmp_path):
    for year in (2019, 2020):
        (tmp_path / f"{year}.csv").write_text("dt,mid\n")
    files = [tmp_path / "2019.csv", tmp_path / "2020.csv"]
    launch("train", *launch.stub, *files, REPOSITORY / "sagemaker" / "training_job.yaml", "--name", "one")
    assert launch.record("one", "output/data/seen.json")["data"][3:] == [
        f"input/data/train/{name}.csv" for name in ("2019", "2020", "prices")
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "2019.csv").write_text("dt,mid\n")
    told = launch("train", "--prices", files[0], "--prices", tmp_path / "other", "--name", "two", expect=1)
    assert "would both be 2019.csv in the channel" in told
    assert not (launch.runs / "two").exists()
