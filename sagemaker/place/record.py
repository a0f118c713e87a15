"""A job's record on this machine: a JSON file in its folder; the locks that say whether the job runs; signals.

Standard library only, as everything that a runner imports: one of them sits beside every job.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ml.errors import UserError
from ml.files import write_json
from place import engine
from place.hosts import HOSTS
from place.record_shape import misfit

RECORD, LOG = "training_job.json", "job.log"
TUNING_RECORD, TUNING_LOG = "tuning_job.json", "tuning.log"
LOOKS = ".looks"  # beside the jobs' folders

JOB_LOCK, RUNNER_LOCK = ".lock", ".runner.lock"  # held by all that is of the job, and by its runner alone

_NEEDED = {
    RECORD: ("TrainingJobName", "TrainingJobStatus", "CreationTime"),
    TUNING_RECORD: ("HyperParameterTuningJobName", "HyperParameterTuningJobStatus", "CreationTime"),
}


class DamagedRecord(UserError):
    """A job's record is there and cannot be read."""


def read_record(path: Path) -> dict[str, Any]:
    """What SageMaker's Describe call would answer for a job, and the few keys that are ours.

    Raises:
        FileNotFoundError: there is no such job.
        DamagedRecord: the file is empty, cut off, or holds something else.
    """
    what = "is empty"
    if content := path.read_bytes():
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            what = f"is no JSON ({error})"
        else:
            wrong = [key for key in _NEEDED[path.name] if not isinstance(record, dict) or key not in record]
            if not wrong and not (odd := misfit(record)):
                return record
            what = f"has no {wrong[0]}" if wrong else f"has a wrong {odd}"
    raise DamagedRecord(f"the record {path} {what}; restore it, or remove the folder {path.parent} to forget the job")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record whole or not at all."""
    record["LastModifiedTime"] = now()
    write_json(path, record)


def now() -> str:
    """The time, UTC, as records write it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def take_lock(folder: Path, name: str = JOB_LOCK) -> int | None:
    """A file descriptor that holds a lock in the folder; None where another process holds it.

    The kernel frees the lock when the last process that inherited the descriptor is gone, however it went.
    """
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(folder: Path, name: str = JOB_LOCK) -> bool:
    """Whether something of the job in the folder runs, or its runner."""
    with (folder / name).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who look do not see each other
        except BlockingIOError:
            return True
        return False


def metric_definitions_of(record: dict[str, Any]) -> list[dict[str, str]]:
    """How the metrics of a job are found in its log; empty where its request or a damaged record does not say."""
    return record.get("AlgorithmSpecification", {}).get("MetricDefinitions", [])


def metrics_in(log: str, definitions: list[dict[str, str]]) -> dict[str, list[float]]:
    """Metric name to the values that its regex finds in a log, in their order, as SageMaker does it."""
    found: dict[str, list[float]] = {definition["Name"]: [] for definition in definitions}
    for definition in definitions:
        for match in re.finditer(definition["Regex"], log, re.MULTILINE):
            with contextlib.suppress(ValueError, TypeError):  # a user's own regex may match what is no number
                found[definition["Name"]].append(float(match[1]))
    return found


def signal_job(record: dict[str, Any], number: signal.Signals, lock: Path | None = None) -> None:
    """Sends a signal to every host of a job: to its container, since the docker command passes no SIGKILL on, or to its
    processes.

    Args:
        record: the job's.
        number: the signal.
        lock: the file that a host's process must have open: others may have got its number since. None: they are the
            caller's own children.
    """
    for host in record.get(HOSTS, ()):
        if engine.signal_container(record, host["HostName"], number):
            continue
        if host["JobPid"] is None or host["ExitCode"] is not None:  # not started, or its number may be another's by now
            continue
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            if lock is None or _holds(host["JobPid"], lock):
                os.killpg(host["JobPid"], number)


def _holds(pid: int, lock: Path) -> bool:
    """Whether a process has a file open; taken for granted where /proc does not tell."""
    descriptors = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True
    with contextlib.suppress(OSError):
        for descriptor in descriptors.iterdir():
            with contextlib.suppress(OSError):
                if descriptor.samefile(lock):
                    return True
    return False
