"""Real servers for KYDB on loopback: moto's for S3 and DynamoDB, and a redis-server."""

import contextlib
import shutil
import socket
import subprocess
import time
import uuid

import boto3
import pytest
from moto.server import ThreadedMotoServer

BACKENDS = ("files", "memory", "redis", "s3", "dynamodb")
AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


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
    if backend in ("s3", "dynamodb"):
        request.getfixturevalue("aws")
        if backend == "s3":
            boto3.client("s3").create_bucket(Bucket=name)
        else:
            make_table(name)
    return f"{backend}://{name}"


@pytest.fixture(params=BACKENDS)
def kydb_url(request):
    """A new database on each kind of KYDB backend."""
    return make_url(request.param, request)


@pytest.fixture
def files_url(tmp_path):
    return f"files:/{tmp_path}/kydb"
