"""Processes that write one time series and read it at once: is it ever unreadable, is a row ever lost?

make load SECONDS=60
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid

import boto3
import numpy as np
import pandas as pd
from botocore.exceptions import ResponseStreamingError

from kydb_servers import make_table, point_aws_at, running_dynalite, running_s3rver
from load import redis_url
from load import s3_url as moto_url
from ml.databases import DamagedValue, connect
from ml.errors import UserError
from ml.timeseries import time_series

KEY = "/prices/load"
ROWS = 4000  # of each writer
_START = pd.Timestamp("2020-01-01", tz="UTC")


def _frame(first: int, values: np.ndarray) -> pd.DataFrame:
    index = pd.date_range(_START + pd.Timedelta(minutes=first), periods=len(values), freq="min", unit="ns", name="dt")
    return pd.DataFrame({"mid": values.astype(float)}, index)


def _patiently(function, tries=40):
    """The function's result; s3rver writes in place, so that what is read may be half written for a moment."""
    for left in reversed(range(tries)):
        try:
            return function()
        except (DamagedValue, EOFError, ResponseStreamingError):
            if not left:
                raise
            time.sleep(0.05)
    raise AssertionError


def write(url: str, number: int, seconds: float, writes: int) -> dict:
    """Replaces random spans of this writer's own rows, and reads the whole series after each."""
    chance = random.Random(number)
    mine = np.full(ROWS, number + 1.0)
    db = connect(url)
    series = _patiently(lambda: time_series(db, KEY))
    deadline, done, refused = time.monotonic() + seconds, 0, 0
    while time.monotonic() < deadline and done < writes:
        begin = 0 if not done else chance.randrange(ROWS - 1)
        values = np.full(ROWS if not done else chance.randrange(1, ROWS - begin + 1), 10.0 * (done + 1) + number)
        frame = _frame(number * ROWS + begin, values)
        try:
            _patiently(lambda frame=frame: series.replace(frame))
        except UserError as error:
            if "by others" not in str(error) and "by another" not in str(error):
                raise
            refused += 1
            continue
        mine[begin : begin + len(values)] = values
        done += 1
        read = _patiently(lambda: db.read(KEY, reload=True).curve())
        rows = read[(read.index >= _frame(number * ROWS, mine).index[0])]["mid"].to_numpy()[:ROWS]
        assert (rows == mine).all(), f"writer {number} does not read what it wrote"
    return {"writes": done, "refused": refused, "mine": mine.tolist()}


def run(url: str, *, seconds: float, writes: int = 10**9, writers: int = 2) -> dict[str, int]:
    """What so many processes did: writes, writes refused, rows lost. A series that cannot be read ends it."""
    command = [sys.executable, __file__, "--write", url, "--seconds", str(seconds), "--writes", str(writes)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    processes = [
        subprocess.Popen([*command, "--number", str(number)], env=environment, stdout=subprocess.PIPE, text=True)
        for number in range(writers)
    ]
    outputs = [process.communicate(timeout=seconds + 300)[0] for process in processes]
    assert not any(process.returncode for process in processes), "a writer could not read or write the series"
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    read = connect(url).read(KEY, reload=True).curve()
    expected = np.concatenate([one["mine"] for one in found])
    return {
        "writes": sum(one["writes"] for one in found),
        "refused": sum(one["refused"] for one in found),
        "lost": int((read["mid"].to_numpy() != expected).sum()) if len(read) == len(expected) else len(expected),
    }


@contextlib.contextmanager
def _files():
    with tempfile.TemporaryDirectory() as folder:
        yield f"files:/{folder}/kydb"


@contextlib.contextmanager
def _aws(server, scheme: str):
    before, name = dict(os.environ), f"load-{uuid.uuid4().hex[:8]}"
    try:
        with server as endpoint:
            if endpoint.startswith("http"):
                point_aws_at(endpoint, os.environ.__setitem__)
            make_table(name) if scheme == "dynamodb" else boto3.client("s3").create_bucket(Bucket=name)
            yield f"{scheme}://{name}"
    finally:
        os.environ.clear()
        os.environ.update(before)


def servers():
    """Name of a kind of database, and what starts one and gives its URL."""
    return {
        "files": _files,
        "redis": redis_url,
        "s3 of moto": moto_url,
        "s3 of s3rver": lambda: _aws(running_s3rver(tempfile.mkdtemp()), "s3"),
        "dynamodb of moto": lambda: _aws(moto_url(), "dynamodb"),
        "dynamodb of dynalite": lambda: _aws(running_dynalite(), "dynamodb"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kinds whose name holds this text")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writes", type=int, default=10**9)
    parser.add_argument("--write", metavar="URL", help="be one writer")
    parser.add_argument("--number", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.write:
        print(json.dumps(write(arguments.write, arguments.number, arguments.seconds, arguments.writes)))
        sys.exit()
    failed = False
    for kind, server in servers().items():
        if arguments.only not in kind:
            continue
        began = time.monotonic()
        with server() as database:
            found = run(database, seconds=arguments.seconds)
        failed = failed or bool(found["lost"]) or not found["writes"]
        print(
            f"{kind}: 2 writers in {time.monotonic() - began:.0f} s wrote {found['writes']:,} times, "
            f"{found['refused']} refused; rows lost {found['lost']}, never unreadable",
            flush=True,
        )
    sys.exit(failed)
