"""Real servers for KYDB on loopback: moto's, dynalite and s3rver for S3 and DynamoDB, and a redis-server."""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

BACKENDS = ("files", "memory", "redis", "s3", "dynamodb")
NPM_BACKENDS = {"s3rver": "s3", "dynalite": "dynamodb"}
AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

# Servers that others wrote, from npm. s3rver ignores If-Match, so it stands for all that do.
NPM_PACKAGES = ("dynalite@4.0.0", "s3rver@3.7.1")
_NPM_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "position-trainer-tests"


@pytest.fixture(scope="session")
def aws_endpoint():
    """URL of a server that answers as S3 and DynamoDB do."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(aws_endpoint, monkeypatch):
    """Points boto3, here and in child processes, at the loopback server."""
    for name, value in (AWS_ENVIRONMENT | {"AWS_ENDPOINT_URL": aws_endpoint}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    return aws_endpoint


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_open(port: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


def start_redis(folder, port: int) -> subprocess.Popen:
    """A redis-server that answers on a port."""
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    wait_until_open(port)
    return process


@contextlib.contextmanager
def running_redis(folder):
    """host:port of a redis-server of its own."""
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server: apt-get install redis-server")
    port = free_port()
    process = start_redis(folder, port)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory):
    """host:port of a redis-server started for the tests."""
    with running_redis(tmp_path_factory.mktemp("redis")) as address:
        yield address


def _npm_program(name: str) -> Path:
    """A program of NPM_PACKAGES, installed on first use into a cache folder outside the checkout."""
    if not shutil.which("npm"):
        pytest.skip(f"npm is not installed, which {name} comes with (apt-get install npm)")
    folder = _NPM_FOLDER / "-".join(NPM_PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            done = subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", folder, *NPM_PACKAGES],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"npm cannot install {name}: {done.stderr.strip()[-300:]}")
            (folder / "installed").touch()
    return folder / "node_modules/.bin" / name


@contextlib.contextmanager
def _running(command: list, port: int):
    process = subprocess.Popen(["node", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def running_dynalite():
    """URL of a dynalite, which answers as DynamoDB does."""
    port = free_port()
    with _running([_npm_program("dynalite"), "--port", str(port), "--createTableMs", "0"], port) as url:
        yield url


@contextlib.contextmanager
def running_s3rver(folder):
    """URL of an s3rver, which answers as S3 does and keeps its objects in a folder."""
    port = free_port()
    mended = ["--require", Path(__file__).with_name("s3rver_keeps_folders.js"), _npm_program("s3rver")]
    options = ["-d", folder, "-p", str(port), "-a", "127.0.0.1", "--silent", "--allow-mismatched-signatures"]
    with _running([*mended, *options], port) as url:
        yield url


@pytest.fixture(scope="session")
def dynalite_endpoint():
    with running_dynalite() as url:
        yield url


@pytest.fixture(scope="session")
def s3rver_endpoint(tmp_path_factory):
    with running_s3rver(tmp_path_factory.mktemp("s3rver")) as url:
        yield url


def point_aws_at(endpoint: str, setenv) -> None:
    """Points boto3, here and in child processes, at a server on loopback."""
    keys = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}  # the only ones that s3rver takes
    for name, value in (AWS_ENVIRONMENT | keys | {"AWS_ENDPOINT_URL": endpoint}).items():
        setenv(name, value)
    boto3.DEFAULT_SESSION = None


def make_table(name: str) -> None:
    """A DynamoDB table as kydb needs it."""
    boto3.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("path", "folder")],
        KeySchema=[{"AttributeName": "path", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "folder-index",
                "KeySchema": [{"AttributeName": "folder", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["mtime", "ctime"]},
            }
        ],
    )


def make_url(backend: str, request) -> str:
    """URL of a new, empty KYDB database of a kind (kydb caches connections by URL, so each is another)."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    if backend == "files":
        return f"files:/{request.getfixturevalue('tmp_path')}/{name}"
    if backend == "redis":
        return f"redis://{request.getfixturevalue('redis_address')}/{name}"
    if backend in ("s3", "dynamodb", "s3rver", "dynalite"):
        request.getfixturevalue("aws")
        if backend in NPM_BACKENDS:
            point_aws_at(request.getfixturevalue(f"{backend}_endpoint"), request.getfixturevalue("monkeypatch").setenv)
            backend = NPM_BACKENDS[backend]
        if backend == "s3":
            boto3.client("s3").create_bucket(Bucket=name)
        else:
            make_table(name)
    return f"{backend}://{name}"


@pytest.fixture(params=BACKENDS)
def kydb_url(request):
    """A new database on each kind of KYDB backend."""
    return make_url(request.param, request)


@pytest.fixture(params=[*BACKENDS, *NPM_BACKENDS])
def any_kydb_url(request):
    """A new database on each kind of KYDB backend, and on servers that others wrote."""
    return make_url(request.param, request)


@pytest.fixture
def files_url(tmp_path):
    return f"files:/{tmp_path}/kydb"
