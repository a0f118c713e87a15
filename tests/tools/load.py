"""Sixteen jobs that publish to one KYDB key and read it, at once: is a model ever half, or lost?

make load SECONDS=300
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from multiprocessing import get_context
from pathlib import Path

import boto3

from kydb_servers import AWS_ENVIRONMENT, free_port, running_redis, wait_until_open
from ml.databases import connect
from ml.deliver.publishing import publish, version_key

KEY = "/ml/models/load.h5"
JOBS = 16
_MAGIC = b"\x89HDF\r\n\x1a\n"
_MOST_BYTES = 64_000


def model_of(job: str, number: int) -> bytes:
    """Bytes that look like an .h5 file, of a length of their own, and hold their own checksum."""
    payload = f"{job}/{number}/".encode() + random.randbytes(random.randrange(1000, _MOST_BYTES))
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def is_whole(content: bytes) -> bool:
    return content[:8] == _MAGIC and hashlib.sha256(content[40:]).digest() == content[8:40]


def _job(url: str, name: str, seconds: float, results) -> None:
    published, reads, halves = [], 0, 0
    random.seed(name)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        content = model_of(name, len(published))
        publish(url, KEY, content, name, patience=30)
        published.append(version_key(KEY, content))
        for _ in range(5):
            halves += not is_whole(connect(url).read(KEY, reload=True))
            reads += 1
            time.sleep(random.random() * 0.1)
    results.put((name, published, reads, halves))


def run(url: str, seconds: float) -> dict[str, int]:
    """What 16 processes did for so many seconds: models published, reads, half models read, models lost."""
    context = get_context("spawn")
    results = context.Queue()
    jobs = [context.Process(target=_job, args=(url, f"job-{number}", seconds, results)) for number in range(JOBS)]
    for job in jobs:
        job.start()
    done = [results.get(timeout=seconds + 120) for _ in jobs]
    for job in jobs:
        job.join()
    db = connect(url)
    assert is_whole(db.read(KEY, reload=True))
    lost = 0
    for name, published, _, _ in done:
        for version in published:
            try:
                kept, record = db.read(version, reload=True), json.loads(db.read(f"{version}.json", reload=True))
                lost += not (is_whole(kept) and kept[40:].startswith(f"{name}/".encode()) and record["job"] == name)
            except KeyError:
                lost += 1
            db.clear_cache()
    return {
        "jobs": len(done),
        "published": sum(len(one[1]) for one in done),
        "reads": sum(one[2] for one in done),
        "half": sum(one[3] for one in done),
        "lost": lost,
    }


@contextlib.contextmanager
def redis_url():
    with running_redis(Path(tempfile.mkdtemp())) as address:
        yield f"redis://{address}/load"


@contextlib.contextmanager
def s3_url():
    """A bucket on moto's server, in a process of its own; the environment points there."""
    port = free_port()
    server = subprocess.Popen(
        [shutil.which("moto_server", path=Path(sys.executable).parent), "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before = dict(os.environ)
    try:
        wait_until_open(port)
        os.environ.update(AWS_ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
        boto3.DEFAULT_SESSION = None
        bucket = f"load-{uuid.uuid4().hex[:8]}"
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}"
    finally:
        server.terminate()
        server.wait()
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    arguments = parser.parse_args()
    failed = False
    for kind, server in (("redis", redis_url), ("s3", s3_url)):
        with server() as database:
            found = run(database, arguments.seconds)
        failed = failed or found["half"] or found["lost"] or found["jobs"] != JOBS
        print(
            f"{kind}: {found['jobs']} jobs in {arguments.seconds:g} s published {found['published']:,} models and "
            f"read {found['reads']:,}; half {found['half']}, lost {found['lost']}",
            flush=True,
        )
    sys.exit(bool(failed))
