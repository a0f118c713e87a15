"""Jobs on this machine as they lie on disk: a folder each, with a record and a log. Reading only.

A job's folder is laid out like /opt/ml, with its record and log beside that, and its other hosts' in hosts/.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from members import SUMMARISED, count_members, trials_of_members
from ml.errors import UserError
from place.base import FINAL, Listing, NoSuchJob, status_of
from place.engine import EngineSilent, remove_all, running_containers
from place.hosts import folder_of_host
from place.outcome import measured_values, outcome_of, read_metrics
from place.record import (
    LOG,
    RECORD,
    TUNING_LOG,
    TUNING_RECORD,
    DamagedRecord,
    is_locked,
    metric_definitions_of,
    metrics_in,
    read_record,
)
from request import FIRST_HOST, objective_of, ranges_of

POLL_SECONDS = 0.2


class JobFolders:
    """The jobs under a folder of runs.

    Args:
        runs: the folder of job folders.
    """

    def __init__(self, runs: Path):
        self.runs = runs.resolve()

    def folder(self, name: str) -> Path:
        return self.runs / name

    def has(self, name: str) -> bool:
        """Whether there is a training job of that name here."""
        return (self.folder(name) / RECORD).is_file()

    def has_tuning(self, name: str) -> bool:
        """Whether there is a tuning job of that name here."""
        return (self.folder(name) / TUNING_RECORD).is_file()

    def describe(self, name: str) -> dict[str, Any]:
        """A training job's record. Where its runner was killed, the job's own word counts, and the engine's.

        A job that left no word and of which nothing runs is Failed. What it left in the engine is removed.

        Raises:
            NoSuchJob: there is none.
            DamagedRecord: its record cannot be read.
        """
        record, running = self._read(name, RECORD, "job")
        if running or record["TrainingJobStatus"] in FINAL:
            return record
        why = "it was killed, or the machine was restarted"
        try:
            if running_containers(record):
                return record
            remove_all(record)  # the hosts' network, which its runner did not
        except EngineSilent as silence:
            why = f"{why}; whether its container runs is not known ({silence})"
        return record | (
            outcome_of(self.folder(name), record)
            or {
                "TrainingJobStatus": "Failed",
                "SecondaryStatus": "Interrupted",
                "FailureReason": f"InternalServerError: the job's process vanished; {why}",
            }
        )

    def describe_tuning(self, name: str) -> dict[str, Any]:
        """A tuning job's record; one whose process vanished is Failed, and can be resumed.

        Raises:
            NoSuchJob: there is none.
            DamagedRecord: its record cannot be read.
        """
        record, running = self._read(name, TUNING_RECORD, "tuning job")
        if not running and record["HyperParameterTuningJobStatus"] not in FINAL:
            record |= {
                "HyperParameterTuningJobStatus": "Failed",
                "FailureReason": "InternalServerError: the search's process vanished; "
                f"tune --resume {name} goes on where it was",
            }
        return record

    def _read(self, name: str, file: str, kind: str) -> tuple[dict[str, Any], bool]:
        """A record, and whether its job runs."""
        folder = self.folder(name)
        # The lock first: a job that ends between the two looks has written its last word into the record.
        running = folder.is_dir() and is_locked(folder)
        try:
            return read_record(folder / file), running
        except FileNotFoundError:
            raise NoSuchJob(f"there is no {kind} {name} in {self.runs}; `list` shows those there are") from None

    def records(self) -> Listing:
        """The training and tuning jobs here, the newest first; trials are not among them."""
        found: dict[str, list[dict[str, Any]]] = {RECORD: [], TUNING_RECORD: []}
        damaged = []
        for file, describe in ((RECORD, self.describe), (TUNING_RECORD, self.describe_tuning)):
            for path in sorted(self.runs.glob(f"[!.]*/{file}")):  # a dot: of a start that is not over
                try:
                    record = describe(path.parent.name)
                except (UserError, OSError) as error:
                    damaged.append(str(error))
                    continue
                if "TuningJobName" not in record:
                    found[file].append(record)
        for records in found.values():
            records.sort(key=lambda record: str(record["CreationTime"]), reverse=True)
        return Listing(found[RECORD], found[TUNING_RECORD], damaged)

    def lines(self, name: str, *, follow: bool, host: str = FIRST_HOST) -> Iterator[str]:
        """The lines of a tuning job's log, or of a training job's on a host; with `follow`, until it ends."""
        tuning = self.has_tuning(name)
        folder = self.folder(name)
        path = folder / TUNING_LOG if tuning else folder_of_host(folder, host) / LOG
        describe = self.describe_tuning if tuning else self.describe
        rest = b""
        position = 0
        while True:
            ended = status_of(describe(name)) in FINAL
            if path.exists():
                with path.open("rb") as file:
                    file.seek(position)
                    rest += (chunk := file.read())
                position += len(chunk)
            *whole, rest = rest.split(b"\n")
            yield from (line.decode("utf-8", errors="replace") for line in whole)
            if ended or not follow:
                break
            time.sleep(POLL_SECONDS)
        if rest:
            yield rest.decode("utf-8", errors="replace")

    def metric_values(self, record: dict[str, Any], metric: str) -> list[float]:
        """The values of a metric in a job's log, one an epoch; [] where the job does not print it."""
        definitions = [each for each in metric_definitions_of(record) if each["Name"] == metric]
        try:
            log = (self.folder(record["TrainingJobName"]) / LOG).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        whole_lines = log[: log.rfind("\n") + 1]
        found = metrics_in(whole_lines, definitions)[metric] if definitions else []
        # A container outlives its runner, which wrote the log.
        measured = measured_values(self.folder(record["TrainingJobName"]), metric)
        return measured if len(measured) > len(found) else found

    def trials(self, name: str) -> list[dict[str, Any]]:
        """A tuning job's trials in their order, as ListTrainingJobsForHyperParameterTuningJob lists them.

        The objective of a running trial is its latest value. A trial whose record is damaged is Failed.
        """
        tuning = read_record(self.folder(name) / TUNING_RECORD)
        found = []
        for path in sorted(self.runs.glob(f"{name}-*/{RECORD}")):
            try:
                record = self.describe(path.parent.name)
            except DamagedRecord as error:
                if path.parent.name.removeprefix(f"{name}-").isdecimal():
                    found.append(_damaged_trial(path.parent.name, tuning, error))
                continue
            if not is_trial_of(record, tuning):
                continue
            found += self.trials_of(record, tuning)
        return found

    def trials_of(self, record: dict[str, Any], tuning: dict[str, Any]) -> list[dict[str, Any]]:
        """The trials that a job of a tuning job trains: itself, or the members of its population."""
        metric, _ = objective_of(tuning)
        parameters = record.get("HyperParameters", {})
        summary = {key: record[key] for key in SUMMARISED if key in record}
        if tuning.get("Pack", 1) > 1 and count_members(parameters) > 1:
            metrics = read_metrics(self.folder(record["TrainingJobName"]) / "model")
            found = trials_of_members(summary, parameters, metrics, metric)
        else:
            values = self.metric_values(record, metric)
            if values and math.isfinite(values[-1]):
                summary["FinalHyperParameterTuningJobObjectiveMetric"] = {"MetricName": metric, "Value": values[-1]}
            found = [summary]
        names = [entry["Name"] for _, entry in ranges_of(tuning)]
        for trial in found:
            values = parameters | trial.get("TunedHyperParameters", {})
            trial["TunedHyperParameters"] = {name: values[name] for name in names if name in values}
        return found


def is_trial_of(record: dict[str, Any], tuning: dict[str, Any]) -> bool:
    """Whether a training job's record says that this very tuning job made it; a name alone says nothing."""
    return record.get("TuningJobName") == tuning["HyperParameterTuningJobName"] and record.get(
        "SearchId"
    ) == tuning.get("SearchId")


def _damaged_trial(name: str, tuning: dict[str, Any], error: DamagedRecord) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "TrainingJobStatus": "Failed",
        "CreationTime": tuning["CreationTime"],
        "TunedHyperParameters": {},
        "FailureReason": f"InternalServerError: {error}",
    }
