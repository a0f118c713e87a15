"""What jobs left and nobody needs: job folders on this machine, and prefixes in the bucket. Never a published model.

A job's leftovers are old where the job ended longer ago than a span; what still runs is never one of them. The
models of jobs that published are kept, wherever they lie: the versions' records in KYDB tell which jobs those are,
and where KYDB does not answer every job that might have published is kept.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import botocore.exceptions

from account.setup import Aws, aws_code
from ml.errors import UserError, redacted
from place.base import FINAL, status_of
from place.record import RECORD, TUNING_RECORD, DamagedRecord, is_locked, read_record

_PREFIXES = {"jobs": "results", "inputs": "inputs", "checkpoints": "checkpoints"}
_SPANS = {"d": 1, "w": 7, "m": 30, "y": 365}


class Leftover(NamedTuple):
    """Something that may be deleted, or a reason why it is kept.

    Attributes:
        where: a folder, or an s3:// prefix.
        job: that left it.
        ended: when.
        size: in bytes.
        kept: why it is not deleted; empty: it is.
    """

    where: str
    job: str
    ended: datetime
    size: int
    kept: str = ""


class Published:
    """Which jobs published a model, as the records of its versions say; asks each KYDB once."""

    def __init__(self) -> None:
        self._jobs = dict[tuple[str, str], set[str] | None]()

    def keeps(self, job: str, parameters: dict[str, str]) -> str:
        """Why a job must be kept; empty where it published nothing.

        Args:
            job: its name.
            parameters: its hyperparameters.
        """
        url, key = parameters.get("model_db", ""), parameters.get("model_key", "")
        if not url:
            return ""
        if (url, key) not in self._jobs:
            self._jobs[url, key] = _published_jobs(url, key)
        jobs = self._jobs[url, key]
        if jobs is None:
            return f"{redacted(url)} does not tell whether it published"
        return f"it published to {redacted(url)}" if job in jobs else ""


def _published_jobs(url: str, key: str) -> set[str] | None:
    """Names of the jobs in the records of a model's versions; None where KYDB does not answer."""
    from ml.databases import configure_aws, connect  # with kydb, which takes a moment
    from ml.settings import SETTINGS

    folder = f"/model_versions/{(key or str(SETTINGS['model_key'].default)).strip('/')}"
    try:
        configure_aws()
        db = connect(url)
        names = [name for name in db.ls(folder) if name.endswith(".json")]
        return {json.loads(db.read(f"{folder}/{name}", reload=True)).get("job") for name in names}
    except KeyError:  # there is no such folder: nothing was ever published
        return set()
    except Exception:  # each kind of database has its own
        return None


def span(text: str) -> timedelta:
    """The length of time that `30d`, `4w`, `6m` or `1y` means; a month has 30 days here.

    Raises:
        UserError: it is none of these.
    """
    found = re.fullmatch(r"(\d{1,4})([dwmy])", text)
    if not found:
        raise UserError(f"--older-than must be a span such as 30d, 4w, 6m or 1y, received {text!r}")
    return timedelta(days=int(found[1]) * _SPANS[found[2]])


def on_this_machine(runs: Path, before: datetime, published: Published) -> Iterator[Leftover]:
    """Folders of jobs and tuning jobs that ended before a time; a folder without a job's record is nobody's."""
    for folder in sorted(path for path in runs.glob("*") if path.is_dir() and not path.is_symlink()):
        record, status, ended = _local_record(folder)
        if not record or status not in FINAL or is_locked(folder) or ended >= before:
            continue
        parameters = record.get("HyperParameters", {})
        if tuning := record.get("TuningJobName"):  # `publish --best` publishes a trial to the tuning job's KYDB
            with contextlib.suppress(FileNotFoundError, DamagedRecord):
                parameters = {"model_db": read_record(runs / tuning / TUNING_RECORD).get("ModelDb", "")} | parameters
        kept = published.keeps(folder.name, parameters)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if json.loads((folder / "model" / "metrics.json").read_text(encoding="utf-8")).get("published"):
                kept = kept or "its model was published"
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        yield Leftover(str(folder), folder.name, ended, size, kept)


def _local_record(folder: Path) -> tuple[dict[str, Any], str, datetime]:
    """Record, status and end of the job in a folder; a job that died with its machine ended when it last wrote."""
    for name in (RECORD, TUNING_RECORD):
        with contextlib.suppress(FileNotFoundError, DamagedRecord, ValueError, KeyError):
            record = read_record(folder / name)
            ended = record.get("TrainingEndTime") or record.get("HyperParameterTuningEndTime")
            status = status_of(record)
            if status not in FINAL and not is_locked(folder):
                status = "Failed"
            return record, status, datetime.fromisoformat(ended or record["LastModifiedTime"])
    return {}, "", datetime.now(timezone.utc)


def in_bucket(aws: Aws, bucket: str, before: datetime, published: Published) -> Iterator[Leftover]:
    """Prefixes of jobs in the bucket: results, inputs and checkpoints of jobs that ended, or are not known any more."""
    s3 = aws.client("s3")
    found = dict[str, tuple[datetime, str]]()  # job -> its end and why it is kept
    for name in _PREFIXES:
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"position-trainer/{name}/", Delimiter="/"
        )
        for prefix in [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]:
            job = prefix.split("/")[2]
            newest, size = _newest_and_size(s3, bucket, prefix)
            if newest >= before:
                continue
            if job not in found:
                found[job] = _end_of(aws, job, published)
            ended, kept = found[job]
            if ended >= before:
                continue
            kept = kept if name == "jobs" else ""  # a published model is among the results, and nowhere else
            yield Leftover(f"s3://{bucket}/{prefix}", job, newest, size, kept)


def _newest_and_size(s3: Any, bucket: str, prefix: str) -> tuple[datetime, int]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = [item for page in pages for item in page.get("Contents", [])]
    newest = max((item["LastModified"] for item in objects), default=datetime.now(timezone.utc))
    return newest, sum(item["Size"] for item in objects)


def _end_of(aws: Aws, job: str, published: Published) -> tuple[datetime, str]:
    """When a job of SageMaker ended, and why its results are kept.

    One that still runs ends after every span; one that SageMaker does not know ended before.
    """
    long_ago, not_yet = (end.replace(tzinfo=timezone.utc) for end in (datetime.min, datetime.max))
    sagemaker = aws.client("sagemaker")
    calls: tuple[tuple[Callable[..., dict[str, Any]], str, str], ...] = (
        (sagemaker.describe_training_job, "TrainingJob", "TrainingEndTime"),
        (sagemaker.describe_hyper_parameter_tuning_job, "HyperParameterTuningJob", "HyperParameterTuningEndTime"),
    )
    for call, kind, end in calls:
        try:
            record = call(**{f"{kind}Name": job})
        except botocore.exceptions.ClientError as error:
            if aws_code(error) not in ("ValidationException", "ResourceNotFound", "ResourceNotFoundException"):
                raise
            continue
        if record[f"{kind}Status"] not in FINAL:
            return not_yet, ""
        ended = record.get(end) or record.get("LastModifiedTime") or not_yet
        return ended, published.keeps(job, record.get("HyperParameters", {}))
    return long_ago, "SageMaker does not know the job, and so nobody knows whether its model was published"


def remove(aws: Aws | None, leftover: Leftover) -> None:
    """Deletes what was found; what was to be kept is refused."""
    if leftover.kept:
        raise ValueError(f"{leftover.where} is to be kept: {leftover.kept}")
    if not leftover.where.startswith("s3://"):
        shutil.rmtree(leftover.where)
        return
    if aws is None:
        raise ValueError(f"{leftover.where} needs an account")
    bucket, _, prefix = leftover.where.removeprefix("s3://").partition("/")
    s3 = aws.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise UserError(f"{leftover.where}: {first['Key']} cannot be deleted: {first.get('Code')}")
