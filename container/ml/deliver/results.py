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
MEASURED_FOLDER = "measured"  # of the .h5 that was measured, where the model is its refit

_LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "kydb", "boto3", "sagemaker-training")
_MOST_BYTES = 100_000_000  # of a file that is read: 100,000 epochs take a quarter of it


class Data(TypedDict):
    """The prices that a model was made from.

    Attributes:
        rows: of the history, labelled ones only.
        first, last: its first and last time (UTC).
        gaps: of its bars, by name.
        buy_share: share of the rows labelled buy.
        train_rows, validation_rows, test_rows: rows of the parts.
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
    test_rows: NotRequired[int]
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


class MemberEntry(TypedDict):
    """What came of one network of a population.

    Attributes:
        member: its number, from 0.
        settings: those that networks differ in, by name.
        status: Completed, Stopped with the job, Pruned by halving, or Diverged before an epoch could be kept.
        epochs: how many it was trained.
        best_epoch: the one whose weights count; None where there is none.
        metrics: of that epoch, by name.
    """

    member: int
    settings: dict[str, Any]
    status: str
    epochs: int
    best_epoch: int | None
    metrics: dict[str, float | None]


class Refit(TypedDict):
    """How the model that was measured was trained once more on every row.

    Attributes:
        epochs: how many.
        rows: that it was trained on.
        model_sha256: of the .h5 that came of it, which is in model/ and is published.
        measured_sha256: of the .h5 that all measurements are of, which is kept in model/measured/.
    """

    epochs: int
    rows: int
    model_sha256: str
    measured_sha256: str


class Daily(TypedDict):
    """What following a model earned on each day of validation, before costs, in basis points of the price.

    Attributes:
        days: such as `2020-06-01` (UTC), in the order of time.
        model: profit of each.
        best_rule: that of the best rule; not there where a job was stopped.
        rule: the best rule's name.
        block_days: days that hang together: those of a block of the bootstrap.
        members: of a population the profits of each member that can predict, by its number.
    """

    days: list[str]
    model: list[float]
    best_rule: NotRequired[list[float]]
    rule: NotRequired[str]
    block_days: int
    members: NotRequired[dict[str, list[float]]]


class Luck(TypedDict):
    """How much luck is in the choice of one try among many. A figure is None where the days are too few.

    Attributes:
        chosen: the try that was chosen: a trial's name, or a member's number.
        tries: how many were judged.
        known: of how many the daily results are known.
        days: of validation that they share.
        rule: the best rule's name.
        sharpe: Sharpe ratio a year of the chosen one, before costs, as all that follows.
        expected_best_sharpe: that of the luckiest of as many without skill.
        deflated_sharpe: probability that the chosen one's true Sharpe ratio is above 0, given how many were tried.
        overfitting_probability: how often the best of one half of the days is below the median on the other half.
        spa_p_value: how often luck alone would put the best this far above the best rule.
        verdict: all of it in one sentence.
        rows: of each figure its name, its value and what it says.
    """

    chosen: str
    tries: int
    known: int
    days: int
    rule: str
    sharpe: float | None
    expected_best_sharpe: float | None
    deflated_sharpe: float | None
    overfitting_probability: float | None
    spa_p_value: float | None
    verdict: str
    rows: list[list[str]]


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
        refit: how the model that is kept was made from the one that was measured; None: they are one.
        performance: what the model is worth on the rows of `part` (test, or validation where there is no test part):
            `verdict`, `profit_verdict`, `look` (how often a test part was looked at), `metrics` and more.
        validation: the same on the validation rows, where there is a test part.
        folds: of each fold what it measured.
        population: what came of each network that was trained at once, in order; there where the job trained several.
        member: the number of the one that is kept; all else in this file is of it.
        daily: what following the model earned on each day of validation.
        luck: of a population how much luck is in the choice of the member that is kept.
    """

    schema: NotRequired[int]
    job: NotRequired[str]
    best_epoch: int
    stopped: NotRequired[bool]
    published: NotRequired[bool | None]
    publication: NotRequired[str]
    best: dict[str, float | None]
    epochs: list[dict[str, float | None]]
    refit: NotRequired[Refit | None]
    performance: NotRequired[dict[str, Any]]
    validation: NotRequired[dict[str, Any]]
    folds: NotRequired[list[dict[str, Any]]]
    population: NotRequired[list[MemberEntry]]
    member: NotRequired[int]
    daily: NotRequired[Daily]
    luck: NotRequired[Luck]


def job_record(*, job: str, instance_type: str, settings: Settings, data: Mapping[str, Any]) -> JobRecord:
    """What a model is made from; the arguments as in `JobRecord`."""
    return {
        "schema": SCHEMA,
        "version": ml.__version__,
        "job": job,
        "instance_type": instance_type,
        "settings": written_settings(settings),
        "data": cast(Data, dict(data)),
        "libraries": library_versions(),
    }


def written_settings(settings: Settings) -> dict[str, Any]:
    """The settings as job.json has them, without the secrets of their URLs."""
    values = {
        name: str(value) if name in ("start_date", "end_date") and value else value
        for name, value in dataclasses.asdict(settings).items()
    }
    return values | {name: redacted(values[name]) for name in ("prices_db", "model_db")}


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
