"""Surfaces of fuzz.py beside prices and requests: what lies in folders and databases, URLs, and the log itself."""

import contextlib
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner
from hypothesis import strategies as st

import launch
from console import visible
from error_lines import MENDABLE
from fuzz_inputs import ODD_TEXT, TEXT, broken_structure, dumped
from fuzz_prices import a_history, broken_bytes, told
from ml.databases import connect
from ml.errors import UserError, one_line, redacted
from ml.kydb_urls import allowed_schemes, check_url
from ml.learn.checkpoints import Checkpoint, CheckpointFolder
from ml.log import quoted, say
from ml.metrics import METRICS, metric_definitions, metric_line
from ml.platform.failure import JobFailed, failures_reported
from ml.timeseries import time_series
from place.record import metrics_in

_JOB = {
    "TrainingJobName": "one",
    "TrainingJobStatus": "Completed",
    "SecondaryStatus": "Completed",
    "CreationTime": "2026-01-02T00:00:00.000+00:00",
    "TrainingStartTime": "2026-01-02T00:00:01.000+00:00",
    "TrainingEndTime": "2026-01-02T00:00:09.000+00:00",
    "TrainingTimeInSeconds": 8,
    "HyperParameters": {"lookback": "60", "nodes": "16", "model_db": "files://tmp/x", "model_key": "/a/b.h5"},
    "AlgorithmSpecification": {"TrainingImage": "x", "MetricDefinitions": metric_definitions()[:3]},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    "FinalMetricDataList": [{"MetricName": "val_loss", "Value": 0.6}],
    "Place": "local",
    "RunnerPid": 2**22 + 1,
    "JobPid": 2**22 + 2,
}
_TUNING = {
    "HyperParameterTuningJobName": "t",
    "HyperParameterTuningJobStatus": "Stopped",
    "CreationTime": "2026-01-01T00:00:00.000+00:00",
    "HyperParameterTuningJobConfig": {
        "HyperParameterTuningJobObjective": {"MetricName": "val_loss", "Type": "Minimize"},
        "ParameterRanges": {"IntegerParameterRanges": [{"Name": "nodes", "MinValue": "1", "MaxValue": "64"}]},
    },
    "TrainingJobDefinition": {"StaticHyperParameters": {"lookback": "60"}},
    "SearchId": "s",
    "Place": "local",
}
_METRICS_FILE = {
    "best": {"val_loss": 0.6, "best_val_loss": 0.6},
    "best_epoch": 1,
    "epochs": [{"loss": 0.7, "val_loss": 0.6}],
    "performance": {"verdict": "no skill", "metrics": {"val_auc": 0.5}},
    "published": True,
}
_COMMANDS = (
    ("list",),
    ("list", "--json"),
    ("status", "one"),
    ("status", "one", "--json"),
    ("logs", "one", "--no-follow"),
    ("status", "t"),
    ("logs", "t", "--no-follow"),
    ("best", "t"),
    ("best", "t", "--json"),
    ("stop", "one"),
    ("publish", "one"),
    ("publish", "--best", "t"),
)


def records(data, folder: Path) -> None:
    """records of training and tuning jobs on this machine, and the metrics.json of a model, through the commands"""
    runs = folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    trial = _JOB | {"TrainingJobName": "t-001", "TuningJobName": "t", "SearchId": "s"}
    files = {
        "one/training_job.json": _JOB,
        "t/tuning_job.json": _TUNING,
        "t-001/training_job.json": trial,
        "one/model/metrics.json": _METRICS_FILE,
        "t-001/model/metrics.json": _METRICS_FILE,
    }
    victim = data.draw(st.sampled_from(sorted(files)))
    for name, value in files.items():
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        content = dumped(value)
        if name == victim:
            broken = st.booleans().map(bool)
            content = (
                data.draw(broken_bytes(content)) if data.draw(broken) else dumped(broken_structure(data.draw, value))
            )
        (runs / name).write_bytes(content)
    for name in ("one", "t-001"):
        (runs / name / "job.log").write_text("epoch=1/1 loss=0.7 val_loss=0.6\n")
    command = data.draw(st.sampled_from(_COMMANDS))
    result = CliRunner().invoke(launch.main, [*command, "--runs", str(runs), *_on(command)])
    assert result.exit_code in (0, MENDABLE), f"{command} {result.output} {(runs / victim).read_bytes()!r}"
    assert all(each.isprintable() or each in "\n\t" for each in result.output), repr(result.output)


def _on(command: tuple[str, ...]) -> list[str]:
    return [] if command[0] == "list" else ["--on", "local"]


_ROWS = 50


def _history(first: int, rows: int, price: float) -> pd.DataFrame:
    start = pd.Timestamp("2020-01-01", tz="UTC") + pd.Timedelta(minutes=first)
    index = pd.date_range(start, periods=rows, freq="min", unit="ns", name="dt")
    return pd.DataFrame({"mid": price + np.arange(float(rows))}, index)


def series_lists(data, folder: Path) -> None:
    """writing to a TimeSeries whose list names other chunks: refused, or afterwards the rows that were written"""
    url = f"files:/{folder}/series"
    shutil.rmtree(folder / "series", ignore_errors=True)
    db = connect(url)
    db.clear_cache()
    series = time_series(db, "/s")
    series.replace(_history(0, _ROWS, 100))
    series.chunks.setvalue(broken_structure(data.draw, series.chunks()))
    series.write()
    db.clear_cache()
    first, rows = data.draw(st.integers(0, _ROWS)), data.draw(st.integers(1, _ROWS))
    new = _history(first, rows, 500)
    write = data.draw(st.sampled_from(["replace", "append", "delete"]))
    with contextlib.redirect_stdout(io.StringIO()), told():
        held = time_series(db, "/s")
        if write == "delete":
            held.delete()
            return
        getattr(held, write)(new)
        found = a_history(connect(url).read("/s", reload=True).curve())
        kept = found[(found.index >= new.index[0]) & (found.index <= new.index[-1])]
        pd.testing.assert_frame_equal(kept, new, check_freq=False)


_IDENTITY = {"nodes": 16}
_NAMES = st.sampled_from(["00000003.ckpt", "9" * 30 + ".ckpt", "x.ckpt", ".writing-00000003.ckpt", "00000000.ckpt"])


def checkpoint_folders(data, folder: Path) -> None:
    """odd things in a checkpoint folder: pipes, links, folders, sparse files, other jobs' and damaged checkpoints"""
    shared = folder / "checkpoints"
    shutil.rmtree(shared, ignore_errors=True)
    kept = CheckpointFolder(shared, "job")
    kept.save(Checkpoint(_IDENTITY, {"epoch": 1, "step": 2}, {"weight": np.ones(3)}))
    good = (shared / "job/00000001.ckpt").read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        path = shared / data.draw(st.sampled_from(["job", "other", "."])) / data.draw(_NAMES)
        path.parent.mkdir(exist_ok=True)
        _put_oddity(data, path, good)
    with contextlib.redirect_stdout(output := io.StringIO()), told():
        loaded = kept.load(_IDENTITY, largest=10_000)
        assert loaded and loaded.identity == _IDENTITY and loaded.progress["step"] == 2
        with contextlib.suppress(OSError):
            kept.save(Checkpoint(_IDENTITY, {"epoch": 2, "step": 3}, {"weight": np.ones(3)}))
        assert kept.load(_IDENTITY, largest=10_000)
    assert all(line.isprintable() for line in output.getvalue().splitlines())


def _put_oddity(data, path: Path, good: bytes) -> None:
    kind = data.draw(
        st.sampled_from(["fifo", "link", "device", "loop", "folder", "sparse", "copy", "damaged", "empty"])
    )
    with contextlib.suppress(FileExistsError):
        if kind == "fifo":
            os.mkfifo(path)
        elif kind in ("link", "device", "loop"):
            path.symlink_to({"link": "00000001.ckpt", "device": "/dev/zero", "loop": path.name}[kind])
        elif kind == "folder":
            path.mkdir()
        elif not path.exists() and not path.is_symlink():
            path.write_bytes(data.draw(broken_bytes(good)) if kind == "damaged" else good if kind == "copy" else b"")
            if kind == "sparse":
                os.truncate(path, 1 << 40)


_PARTS = st.sampled_from(
    ["files://", "files:/", "redis://", "s3://", "dynamodb://", "http://", "file:", "memory://", "://", ":", "/", "//"]
) | st.sampled_from([";", "|", "@", "?", "#", "%40", "\\", "host", "127.0.0.1:6379", "..", "tmp", "a b", "\u2028"])
_SECRET = "hunter2secret"


def kydb_urls(data, folder: Path) -> None:
    """KYDB URLs: refused without repeating a secret, or of an allowed kind, without user or query, and connectable"""
    parts = data.draw(st.lists(_PARTS | ODD_TEXT | TEXT, max_size=7))
    with_secret = data.draw(st.booleans())
    if with_secret:
        parts.insert(data.draw(st.integers(0, len(parts))), f"user:{_SECRET}@")
    url = "".join(parts)
    try:
        check_url("prices_db", url)
    except UserError as error:
        assert _SECRET not in str(error) and str(error).isprintable() and len(str(error)) < 1024, url
        return
    assert not with_secret and "@" not in url and "?" not in url, url
    assert all(part.partition(":")[0] in allowed_schemes() for part in re.split(r"[;|]", url)), url
    assert redacted(url) == url
    if re.fullmatch(r"files:/[^;|]*", url):
        with told(), contextlib.suppress(OSError):
            db = connect(url)
            assert not db.exists("/fuzz-is-not-there")


_NAMED = st.sampled_from(sorted(METRICS))
_BLANKS = st.sampled_from([" ", "\n", "\t", "\r", "\x0b", "\x1c", "\x1f", "\x85", "\xa0", "\u2028", "\u3000", "", "="])
_OUTSIDE = st.lists(
    st.tuples(
        _NAMED, st.sampled_from(["=", " = ", "==", "\uff1d"]), st.sampled_from(["0.1", "1e-9", "nan", "-inf", ""])
    )
    .map("".join)
    .flatmap(lambda metric: _BLANKS.map(lambda blank: blank + metric))
    | ODD_TEXT
    | TEXT,
    min_size=1,
    max_size=6,
).map("".join)


def log_lines(data, folder: Path) -> None:
    """text from outside in the log: one printable line, and no metric but those that the job measured"""
    text = data.draw(_OUTSIDE)
    value = data.draw(st.floats(0, 2).map(lambda number: round(number, 4)))
    kind = data.draw(st.sampled_from(["say", "error", "fault", "quoted", "terminal"]))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        say(metric_line(1, 2, {"loss": value}), metrics=True)
        if kind == "say":
            say(f"published to {text}")
        elif kind == "quoted":
            out.write(quoted(text) + "\n")
        elif kind == "terminal":
            out.write(visible(quoted(text)) + "\n")
        else:
            with contextlib.suppress(JobFailed), failures_reported(folder):
                raise UserError(text) if kind == "error" else ValueError(text)
    log = out.getvalue() + err.getvalue()
    assert all(line.isprintable() for line in log.split("\n")), repr(log)
    found = metrics_in(log, metric_definitions())
    assert {name: values for name, values in found.items() if values} == {"loss": [value]}, repr(log)
    assert "\n" not in one_line(ValueError(text))


MORE_SURFACES = {
    function.__name__: function for function in (records, series_lists, checkpoint_folders, kydb_urls, log_lines)
}
