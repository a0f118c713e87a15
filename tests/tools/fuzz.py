"""Everything that comes from outside, broken in every way: a clear error or a right result, never anything else.

make fuzz N=100000                 inputs over all surfaces; the same code runs with fewer in tests/test_fuzz.py
make fuzz N=1000 ARGS=csv          one surface
"""

import argparse
import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pandas as pd
import yaml
from click.testing import CliRunner
from hypothesis import strategies as st

import launch
from build import read_request
from error_lines import MENDABLE
from fuzz_inputs import TEXT, VALUES, broken_structure, dumped
from fuzz_prices import PRICE_SURFACES, a_history, broken_bytes, history_of, told
from fuzz_surfaces import MORE_SURFACES
from ml.data.history import checked
from ml.data.sources import read_kydb
from ml.databases import connect
from ml.hyperparameters import parse_settings
from ml.learn.checkpoints import Checkpoint, CheckpointFolder
from ml.platform.job import read_job
from ml.settings import SETTINGS
from ml.timeseries import time_series
from request import TRAINING, TUNING
from rules import check, problems_on_sagemaker

REPOSITORY = Path(__file__).resolve().parents[2]
_LONGEST_SECONDS = 20  # for one input; what takes longer hangs


# The surfaces: each draws one input, hands it to the code and judges what comes back


def job_files(data, folder: Path) -> None:
    """hyperparameters.json, inputdataconfig.json, resourceconfig.json, checkpointconfig.json"""
    files = {
        "hyperparameters": {
            "lookback": "60",
            "dropout": "0.2",
            "optimizer": "adam",
            "tensorboard": "true",
            "start_date": "2020-01-01",
            "model_key": "/a/b.h5",
            "prices_db": "files://tmp/x",
        },
        "inputdataconfig": {"train": {"TrainingInputMode": "File", "RecordWrapperType": "None"}},
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"], "current_instance_type": "ml.c5.large"},
        "checkpointconfig": {"LocalPath": str(folder / "checkpoints")},
    }
    config = folder / "input/config"
    config.mkdir(parents=True, exist_ok=True)
    victim = data.draw(st.sampled_from(sorted(files)))
    for name, value in files.items():
        content = dumped(value)
        if name == victim:
            content = (
                data.draw(broken_bytes(content))
                if data.draw(st.booleans())
                else dumped(broken_structure(data.draw, value))
            )
        (config / f"{name}.json").write_bytes(content)
    with told():
        job = read_job(folder)
        assert all(path.parent == folder / "input/data" for path in job.channels.values())
        assert job.hosts and all(isinstance(host, str) for host in job.hosts)
        settings_in_range(parse_settings(job.hyperparameters))


def hyperparameters(data, folder: Path) -> None:
    """values of hyperparameters"""
    names = data.draw(st.lists(st.sampled_from(sorted(SETTINGS)) | TEXT, max_size=4, unique=True))
    numbers = st.floats().map(str) | st.integers().map(str) | st.floats().map(json.dumps).map(json.dumps)
    with told():
        settings_in_range(parse_settings({name: data.draw(numbers | TEXT | VALUES) for name in names}))


def settings_in_range(settings) -> None:
    for name, field in SETTINGS.items():
        value = getattr(settings, name)
        interval, choices = field.metadata["interval"], field.metadata["choices"]
        assert interval is None or (math.isfinite(value) and value in interval), (name, value)
        assert not choices or value in choices, (name, value)
    assert settings.h5_name.endswith(".h5") and "/" not in settings.h5_name
    assert settings.weights > 0


_START = datetime(2020, 1, 1, tzinfo=timezone.utc)
_COLUMNS = st.sampled_from(
    [
        [1.0, 2.0],
        [1, 2],
        ["1.5", "2.5"],
        ["a", "b"],
        [None, 1.0],
        [True, False],
        [1 + 2j, 3j],
        [b"1", b"2"],
        [np.inf, 1.0],
        [[1.0], [2.0]],
        [{"a": 1}, {"a": 2}],
        [_START, _START + timedelta(minutes=1)],
        [_START.replace(tzinfo=None), _START.replace(tzinfo=None) + timedelta(minutes=1)],
        [_START.date(), _START.date()],
        ["2020-01-01", "2020-01-01T00:01+09:00"],
        [pd.NaT, _START],
        [2**60, 2**62],
        [-1.0, 1.0],
        [0.0, 0.5],
        [pd.Timestamp.min, pd.Timestamp.max],
        [timedelta(1), timedelta(2)],
        ["", ""],
    ]
)


def _frame(data) -> pd.DataFrame:
    names = data.draw(st.lists(st.sampled_from(["dt", "mid", "bid", "ask", "position", "x"]), min_size=1, max_size=5))
    frame = pd.concat([pd.Series(data.draw(_COLUMNS), name=name) for name in names], axis=1)
    if data.draw(st.booleans()) and names.count("dt") == 1:
        return frame.set_index("dt")
    return frame


def parquet(data, folder: Path) -> None:
    """Parquet files of a channel: columns of any type, and damaged files"""
    if data.draw(st.booleans()):
        frame = _frame(data)
        buffer = io.BytesIO()
        try:
            frame.to_parquet(buffer)
        except Exception:  # what pandas cannot write nobody sends
            return
        content = buffer.getvalue()
    else:
        content = data.draw(broken_bytes(_whole_parquet()))
    history_of(folder, "prices.parquet", content)


@functools.cache
def _whole_parquet() -> bytes:
    index = pd.date_range("2020-01-01", periods=50, freq="min", tz="UTC", name="dt")
    buffer = io.BytesIO()
    pd.DataFrame({"mid": np.linspace(1, 2, 50), "position": 1.0}, index).to_parquet(buffer)
    return buffer.getvalue()


def frames(data, folder: Path) -> None:
    """what a curve(start, end) of the user's own may return"""
    other = data.draw(st.sampled_from([None, 1, "frame", [], {}, pd.Series([1.0]), np.ones(3), pd.DataFrame()]))
    with told():
        a_history(checked(other if data.draw(st.integers(0, 5)) == 0 else _frame(data), source="the curve"))


def kydb_contents(data, folder: Path) -> None:
    """what is under a price history's key and its chunks'"""
    url = f"files:/{folder}/kydb"
    db = connect(url)
    db.clear_cache()
    shutil.copytree(_whole_kydb(), folder / "kydb", dirs_exist_ok=True)
    series = db.read("/prices", reload=True)
    chunk = series.chunks()[0]["key"]
    kind = data.draw(
        st.sampled_from(["chunk bytes", "chunk value", "chunk, signed", "list", "object", "other object", "classes"])
    )
    if kind == "chunk bytes":
        path = folder / "kydb" / chunk.strip("/")
        path.write_bytes(data.draw(broken_bytes(path.read_bytes())))
    elif kind == "chunk value":
        db[chunk] = data.draw(VALUES)
    elif kind == "chunk, signed":
        db[chunk] = content = data.draw(broken_bytes(db.read(chunk, reload=True)))
        series.chunks.setvalue([series.chunks()[0] | {"sha256": hashlib.sha256(content).hexdigest()}])
        series.write()
    elif kind == "list":
        series.chunks.setvalue(broken_structure(data.draw, series.chunks()))
        series.write()
    elif kind == "object":
        stored = pickle.loads((folder / "kydb/prices").read_bytes())
        (folder / "kydb/prices").write_bytes(pickle.dumps(broken_structure(data.draw, stored)))
    elif kind == "classes":
        db.set("/.configs/objdb", broken_structure(data.draw, db.read("/.configs/objdb")), system_obj=True)
    else:
        db["/prices"] = data.draw(VALUES)
    db.clear_cache()
    with told():
        a_history(read_kydb(url, "/prices").frame)


@functools.cache
def _whole_kydb() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-kydb-"))
    index = pd.date_range("2020-01-01", periods=50, freq="min", tz="UTC", name="dt")
    time_series(connect(f"files:/{folder}"), "/prices").replace(pd.DataFrame({"mid": np.linspace(1, 2, 50)}, index))
    return folder


def request_files(data, folder: Path) -> None:
    """requests in YAML and JSON, through the launcher's command line"""
    command = data.draw(st.sampled_from(["train", "tune"]))
    text = (REPOSITORY / f"sagemaker/{'training' if command == 'train' else 'tuning'}_job.yaml").read_bytes()
    kind = data.draw(st.sampled_from(["bytes", "yaml", "json"]))
    if kind == "bytes":
        content = data.draw(broken_bytes(text))
    else:
        value = broken_structure(data.draw, yaml.safe_load(text))
        content = (
            dumped(value) if kind == "json" else yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace")
        )
    path = folder / "request.yaml"
    path.write_bytes(content)
    command = data.draw(st.sampled_from([command, command, command, "tune" if command == "train" else "train"]))
    place = data.draw(st.sampled_from(["local", "docker", "aws"]))
    options = data.draw(
        st.lists(
            st.sampled_from(
                [
                    ("--spot",),
                    ("--tag", "team=research"),
                    ("--bucket", "models"),
                    ("--max-runtime", "60"),
                    ("--env", "A=b"),
                    ("--set", "epochs=2"),
                    ("--network-isolation",),
                    ("--subnet", "subnet-1"),
                ]
            ),
            unique=True,
        )
    )
    result = CliRunner().invoke(
        launch.main,
        [
            command,
            str(path),
            "--dry-run",
            "--on",
            place,
            "--runs",
            str(folder),
            "--prices",
            str(path),
            *itertools.chain(*options),
        ],
    )
    assert result.exit_code in (0, MENDABLE), result.output + content.decode("utf-8", "replace")
    with told():
        read = read_request(path, TRAINING if command == "train" else TUNING)
        check(read, problems_on_sagemaker)


IDENTITY = {"nodes": 16, "data": "abc"}


def _whole_checkpoint() -> Checkpoint:
    return Checkpoint(
        IDENTITY,
        {"epoch": 1, "step": 2, "history": [{"loss": 0.5}]},
        {"weight_0": np.ones((3, 2), np.float32), "optimizer_0": np.zeros(3)},
    )


def checkpoints(data, folder: Path) -> None:
    """checkpoint files: damaged, and made by somebody with a right checksum"""
    shutil.rmtree(folder / "job", ignore_errors=True)
    kept = CheckpointFolder(folder, "job")
    kept.save(_whole_checkpoint())
    kept.save(_whole_checkpoint())
    newest = max((folder / "job").iterdir())
    content = newest.read_bytes()
    kind = data.draw(st.sampled_from(["bytes", "body", "json", "arrays"]))
    if kind == "bytes":
        content = data.draw(broken_bytes(content))
    else:
        body = data.draw(broken_bytes(content[:-64])) if kind == "body" else _made_archive(data)
        content = body + hashlib.sha256(body).hexdigest().encode()
    newest.write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()), told():
        checkpoint = kept.load(IDENTITY)
        assert checkpoint and checkpoint.identity == IDENTITY and isinstance(checkpoint.progress, dict)
        assert all(array.dtype != object for array in checkpoint.arrays.values())


def _made_archive(data) -> bytes:
    text = broken_structure(data.draw, {"identity": IDENTITY, "progress": {"epoch": 1, "history": []}})
    arrays = data.draw(
        st.sampled_from(
            [
                {},
                {"weight_0": np.ones(3)},
                {"weight_0": np.array([object()], object)},
                {"weight_0": np.array(["a"])},
                {"_other": np.zeros((0, 3))},
                {"weight_0": np.array([1], "datetime64[ns]")},
            ]
        )
    )
    buffer = io.BytesIO()
    try:
        data.draw(st.sampled_from([np.savez, np.savez_compressed]))(
            buffer,
            **arrays,
            _json=data.draw(
                st.sampled_from([np.frombuffer(dumped(text), np.uint8), np.ones(3), np.frombuffer(b"{" * 9, np.uint8)])
            ),
        )
    except (TypeError, pickle.PicklingError):
        return b"PK\x05\x06" + bytes(18)
    return buffer.getvalue()


SURFACES = (
    PRICE_SURFACES
    | MORE_SURFACES
    | {
        function.__name__: function
        for function in (job_files, hyperparameters, parquet, frames, kydb_contents, request_files, checkpoints)
    }
)


def ten_million_rows() -> str:
    """A history of 19 years, through the check and into windows."""
    from ml.train_sequence import TrainSequence

    rows = 10_000_000
    index = pd.date_range("2000-01-01", periods=rows, freq="min", tz="UTC", unit="ns", name="dt")
    mid = 1e4 + np.random.default_rng(0).normal(size=rows).cumsum() % 1000
    history = checked(pd.DataFrame({"mid": mid, "position": np.sign(mid - 10_500)}, index), source="ten million")
    sequence = TrainSequence(history, 1440)
    assert sequence.num_windows == rows - 1439
    for start in (0, 5_000_000, rows - 1440):
        window = mid[start : start + 1440]
        expected = ((window - window.min()) / np.float32(window.max() - window.min())).astype(np.float32)
        np.testing.assert_allclose(sequence.windows(np.array([start]))[0], expected, atol=1e-6)
    return f"{rows:,} rows were checked and cut into {sequence.num_windows:,} windows"


def run(name: str, examples: int, seed: int | None = None) -> int:
    """Hands so many inputs to a surface; returns how many it was."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    count = SimpleNamespace(value=0)

    def hangs(*_):
        raise AssertionError(f"an input took more than {_LONGEST_SECONDS} s")

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def one(data):
        count.value += 1
        signal.alarm(_LONGEST_SECONDS)
        try:
            SURFACES[name](data, folder)
        finally:
            signal.alarm(0)

    before = signal.signal(signal.SIGALRM, hangs)
    try:
        (one if seed is None else hypothesis.seed(seed)(one))()
    finally:
        signal.signal(signal.SIGALRM, before)
        shutil.rmtree(folder, ignore_errors=True)
    return count.value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("surfaces", nargs="*", default=list(SURFACES), help="  ".join(SURFACES))
    parser.add_argument("-n", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    total, broken = 0, []
    for surface in arguments.surfaces:
        began = time.monotonic()
        try:
            tried = run(surface, -(-arguments.n // len(arguments.surfaces)), arguments.seed)
            print(f"{surface}: {tried:,} inputs in {time.monotonic() - began:.0f} s, all told or right", flush=True)
            total += tried
        except BaseException:
            broken.append(surface)
            print(f"{surface}: FAILED", flush=True)
            traceback.print_exc()
    if arguments.surfaces == list(SURFACES):
        print(ten_million_rows(), flush=True)
    print(f"{total:,} inputs; {len(broken)} surfaces failed {broken or ''}", flush=True)
    sys.exit(bool(broken))
