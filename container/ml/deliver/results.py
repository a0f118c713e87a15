"""metrics.json and job.json in model/: what a job measured, and what its model was made from.

One schema, for the job that writes them and for all that read them: the launcher, the report, the notebook, tests.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import ml
from ml.errors import UserError, redacted
from ml.files import write_json
from ml.settings import Settings

SCHEMA = 1  # a change that a reader of today would misread needs another number; a new key does not
METRICS_FILE, JOB_FILE = "metrics.json", "job.json"

_LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "kydb", "boto3", "sagemaker-training")
_MOST_BYTES = 100_000_000  # of a file that is read: 100,000 epochs take a quarter of it


class Data(TypedDict):
    """The prices that a model was made from.

    Attributes:
        rows: of the history, labelled ones only.
        first, last: its first and last time (UTC).
        gaps: of its bars, by name.
        buy_share: share of the rows labelled buy.
        train_rows, validation_rows: rows of the two parts.
        sha256: of the history.
        instruments: of several, by name, the rows and sha256 of each; there where there are several.
    """

    rows: int
    first: str
    last: str
    gaps: dict[str, Any]
    buy_share: float
    train_rows: int
    validation_rows: int
    sha256: str
    instruments: NotRequired[dict[str, dict[str, Any]]]


class JobRecord(TypedDict):
    """job.json: what a model was made from, and by what.

    Attributes:
        schema: number of this schema; files of before 0.9.0 have none.
        version: of this project.
        job: the job's name.
        instance_type: SageMaker's name of the instance, empty where unknown.
        settings: every hyperparameter, with URLs that hold no secrets and dates as text.
        data: the prices.
        libraries: versions of what can change a model's numbers.
        device: one line on the hardware; there once training has begun.
        hardware: what a run must share to end in the same bits: device, driver, versions.
        programs: folders with what XLA compiled, which it must share on a GPU.
    """

    schema: NotRequired[int]
    version: NotRequired[str]
    job: str
    instance_type: str
    settings: dict[str, Any]
    data: Data
    libraries: dict[str, str]
    device: NotRequired[str]
    hardware: NotRequired[dict[str, str]]
    programs: NotRequired[list[str]]


class Metrics(TypedDict):
    """metrics.json: what a job measured. A number that is none (nan, infinity) is None.

    Attributes:
        schema: number of this schema; files of before 0.9.0 have none.
        job: the job's name.
        best_epoch: the epoch whose weights are kept, from 1; 0: none was measured.
        stopped: whether the job was asked to end.
        published: whether the model is in KYDB; None: nobody asked for it, or not yet.
        publication: why publish_if let it be published, or did not; there where there was a model_db.
        best: the metrics of the epoch that is kept.
        epochs: of each epoch its number (`epoch`) and its metrics.
        performance: what the model is worth on its held-out rows: `verdict`, `profit_verdict`, `metrics` and more.
        folds: of each fold what it measured.
    """

    schema: NotRequired[int]
    job: NotRequired[str]
    best_epoch: int
    stopped: NotRequired[bool]
    published: NotRequired[bool | None]
    publication: NotRequired[str]
    best: dict[str, float | None]
    epochs: list[dict[str, float | None]]
    performance: NotRequired[dict[str, Any]]
    folds: NotRequired[list[dict[str, Any]]]


def job_record(*, job: str, instance_type: str, settings: Settings, data: Mapping[str, Any]) -> JobRecord:
    """What a model is made from; the arguments as in `JobRecord`."""
    values = {
        name: str(value) if name in ("start_date", "end_date") and value else value
        for name, value in dataclasses.asdict(settings).items()
    }
    values |= {name: redacted(values[name]) for name in ("prices_db", "model_db")}
    return {
        "schema": SCHEMA,
        "version": ml.__version__,
        "job": job,
        "instance_type": instance_type,
        "settings": values,
        "data": cast(Data, dict(data)),
        "libraries": library_versions(),
    }


def metrics_of(
    *, job: str, history: Sequence[Mapping[str, float | None]], best_epoch: int, stopped: bool = False
) -> Metrics:
    """What a training measured.

    Args:
        job: the job's name.
        history: metrics of each epoch, by name.
        best_epoch: the epoch whose weights are kept, from 1; 0: none was measured.
        stopped: whether the job was asked to end.
    """
    return {
        "schema": SCHEMA,
        "job": job,
        "best_epoch": best_epoch,
        "stopped": stopped,
        "published": None,
        "best": dict(history[best_epoch - 1]) if best_epoch else {},
        "epochs": [{"epoch": number} | dict(epoch) for number, epoch in enumerate(history, 1)],
    }


def write_metrics(folder: Path, metrics: Metrics) -> None:
    """Writes metrics.json into model/, whole or not at all.

    Raises:
        UserError: it cannot be written; the one before is untouched.
    """
    try:
        write_json(folder / METRICS_FILE, cast(dict[str, Any], metrics))
    except OSError as error:
        raise UserError(
            f"{folder / METRICS_FILE} cannot be written: {error.strerror}; the model beside it is whole, and the file "
            "still says what was known before"
        ) from error


def read_metrics(folder: Path) -> Metrics:
    """The metrics.json of a job.

    Args:
        folder: the job's model/.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, no metrics.json of this project, or of a newer version of it.
    """
    path = folder / METRICS_FILE
    content = _read(path, {"best_epoch": int, "best": dict, "epochs": list})
    for epoch in (content["best"], *content["epochs"]):
        if not isinstance(epoch, dict) or not all(_is_number(value) for value in epoch.values()):
            raise UserError(f"{path} is damaged: an epoch's metrics must be numbers, received {str(epoch)[:200]}")
    return cast(Metrics, content)


def read_job_record(folder: Path) -> JobRecord:
    """The job.json of a job; arguments and errors as in `read_metrics`."""
    content = _read(folder / JOB_FILE, {"job": str, "settings": dict, "data": dict, "libraries": dict})
    return cast(JobRecord, content)


def library_versions() -> dict[str, str]:
    """Versions of what can change a model's numbers."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read(path: Path, expected: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object with keys of the expected types.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is something else.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is damaged: it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UserError):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged and cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it must hold a JSON object, received {type(content).__name__}")
    schema = content.get("schema", SCHEMA)
    if type(schema) is not int or schema > SCHEMA:
        raise UserError(
            f"{path} has schema {str(schema)[:50]!r} and this version of position-trainer ({ml.__version__}) knows "
            f"{SCHEMA}; read it with the version that wrote it"
        )
    for name, kind in expected.items():
        if type(content.get(name)) is not kind:
            raise UserError(
                f"{path} is damaged: {name} must be of type {kind.__name__}, "
                f"received {type(content.get(name)).__name__}"
            )
    return content


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)
