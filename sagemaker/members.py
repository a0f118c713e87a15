"""A population's members told as trials: several points become one job, and what it left becomes a trial for each.

A member is called JOB-NUMBER, with the number that the job itself gives it in metrics.json and population.parquet.
"""

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml.hyperparameters import parse_value
from ml.metrics import BEST_VAL_ACCURACY, BEST_VAL_LOSS, METRICS, VAL_ACCURACY
from ml.settings import SETTINGS, VARIED
from request import RANGE_KINDS, entries, mapping

Record = dict[str, Any]

# What a trial's summary repeats of its job's record.
SUMMARISED = (
    "TrainingJobName",
    "TrainingJobStatus",
    "CreationTime",
    "TrainingStartTime",
    "TrainingEndTime",
    "FailureReason",
)

# What a member came to, in the words of a training job's status. A pruned one was stopped by `halving`.
_STATUSES = {"Completed": "Completed", "Stopped": "Stopped", "Pruned": "Stopped", "Diverged": "Failed"}

_ENDED_WELL = ("Completed", "Stopped")  # statuses of jobs whose members have an outcome of their own

_OF_THE_POPULATION = ("population", "ranges", "points", "halving")
_MOST = 1024  # members of a population


class Pack(NamedTuple):
    """How the trials of a search are trained together.

    Attributes:
        size: trials of a job.
        halving: hyperparameter of the jobs that train several; empty: none is given.
    """

    size: int = 1
    halving: str = ""

    def hyperparameters(self, static: Mapping[str, str], points: Sequence[Mapping[str, str]]) -> dict[str, str]:
        """The hyperparameters of the job that trains these points.

        Args:
            static: what every job of the search gets.
            points: name to text; several are a population's, and agree on what a population cannot vary.
        """
        if len(points) == 1:
            return {**static, **points[0]}
        shared = {name: value for name, value in points[0].items() if name not in VARIED}
        varied = [{name: value for name, value in point.items() if name in VARIED} for point in points]
        halving = {"halving": self.halving} if self.halving else {}
        return {**static, **shared, **halving, "points": json.dumps(varied)}


ALONE = Pack()  # a job for each trial


def count_members(parameters: Mapping[str, Any]) -> int:
    """How many networks a job with these hyperparameters trains at once; 1: an ordinary job."""
    if points := _points(parameters):
        return len(points)
    with contextlib.suppress(ValueError, TypeError):
        return min(max(1, int(parameters.get("population", 1))), _MOST)
    return 1


def has_member(parameters: Mapping[str, Any], number: int) -> bool:
    """Whether a job with these hyperparameters trains a population with a member of that number."""
    return 1 < count_members(parameters) > number


def member_name(job: str, number: int) -> str:
    """The name of a job's member."""
    return f"{job}-{number}"


def split_member_name(name: str) -> tuple[str, int | None]:
    """The job and the number that `member_name` joined; None: the name is of no member."""
    job, _, number = name.rpartition("-")
    return (job, int(number)) if job and re.fullmatch("0|[1-9][0-9]{0,3}", number) else (name, None)


def trials_of_members(
    job: Record, parameters: Mapping[str, Any], metrics: Mapping[str, Any], metric: str
) -> list[Record]:
    """A job's members in their order, each in the words of ListTrainingJobsForHyperParameterTuningJob.

    Args:
        job: what they share: TrainingJobName, TrainingJobStatus, the times, FailureReason.
        parameters: the job's hyperparameters.
        metrics: its metrics.json; empty as long as there is none.
        metric: the objective.

    Returns:
        Of each member a summary that has besides `MemberOf` (the job), `Member` (the number), `Kept` (whether the
        job's model is this one's) and `Epochs`.
    """
    left = {each["member"]: each for each in entries(metrics.get("population")) if isinstance(each.get("member"), int)}
    points = _points(parameters) or [mapping(left[number].get("settings")) for number in sorted(left)]
    ended = job["TrainingJobStatus"] in _ENDED_WELL
    found = []
    for number, point in enumerate(points):
        entry = left.get(number, {})
        trial = {
            **job,
            "TrainingJobName": member_name(job["TrainingJobName"], number),
            "TunedHyperParameters": {name: str(value) for name, value in point.items()},
            "MemberOf": job["TrainingJobName"],
            "Member": number,
            "Kept": ended and metrics.get("member") == number,
            "Epochs": epochs if isinstance(epochs := entry.get("epochs"), int) else None,
        }
        trial |= _outcome(entry) if ended else {}
        if (value := _value(mapping(entry.get("metrics")), metric)) is not None:
            trial["FinalHyperParameterTuningJobObjectiveMetric"] = {"MetricName": metric, "Value": value}
        found.append(trial)
    return found


def _value(metrics: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a member; those of its best epoch are the best_ ones, and of one fold the mean is the fold's own."""
    for name in (metric, metric.removeprefix("mean_"), metric.removeprefix("mean_").removeprefix("best_")):
        if isinstance(value := metrics.get(name), int | float) and math.isfinite(value):
            return float(value)
    return None


def _outcome(entry: Mapping[str, Any]) -> Record:
    status = _STATUSES.get(str(entry.get("status")))
    if status is None:
        return {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: the job left no result of this member"}
    if status == "Failed":
        return {
            "TrainingJobStatus": status,
            "FailureReason": f"AlgorithmError: its loss was not a finite number after {entry.get('epochs')} epochs",
        }
    return {"TrainingJobStatus": status}


def settings_of_member(parameters: Mapping[str, str], members: Sequence[Record], number: int) -> dict[str, str]:
    """The hyperparameters of a job that trains one member by itself, on the rows that all of them were trained on.

    Args:
        parameters: of the job that trained it with others.
        members: the trials of that job.
        number: the member's.
    """
    kept = {
        name: value
        for name, value in parameters.items()
        if name not in _OF_THE_POPULATION and not name.startswith("_tuning_")
    }
    own = kept | members[number]["TunedHyperParameters"]
    texts = [each["TunedHyperParameters"].get("lookback") for each in members]
    lookbacks = [0 if text is None else parse_value("lookback", text) for text in texts]
    longest = max(parse_value("longest_lookback", own.get("longest_lookback", "0")), *lookbacks)
    return own | ({"longest_lookback": str(longest)} if longest > lookbacks[number] else {})


def population_of(record: Record, metrics: Mapping[str, Any]) -> tuple[Record, list[Record]]:
    """A job that trains a population in the words of a tuning job, and its members as the trials.

    Args:
        record: the job's.
        metrics: its metrics.json; empty as long as there is none.
    """
    parameters = record.get("HyperParameters", {})
    monitor = parameters.get("monitor", SETTINGS["monitor"].default)
    metric = BEST_VAL_ACCURACY if monitor == VAL_ACCURACY else BEST_VAL_LOSS
    trials = trials_of_members({key: record[key] for key in SUMMARISED if key in record}, parameters, metrics, metric)
    tuning = {
        "HyperParameterTuningJobName": record["TrainingJobName"],
        "HyperParameterTuningJobStatus": record["TrainingJobStatus"],
        "HyperParameterTuningJobConfig": {
            "Strategy": "Population",
            "HyperParameterTuningJobObjective": {"Type": METRICS[metric].goal, "MetricName": metric},
            "ParameterRanges": _ranges(parameters, trials),
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {
                name: value for name, value in parameters.items() if name not in ("population", "ranges", "points")
            }
        },
    }
    return tuning, trials


def _ranges(parameters: Mapping[str, str], trials: Sequence[Record]) -> Record:
    """What the members differ in: ranges of numbers as the job was given them, and of all else the values there are."""
    given: Record = {}
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        given = mapping(json.loads(parameters.get("ranges", "")))
    numbers = {kind: entries(given.get(kind)) for kind in RANGE_KINDS if kind != "CategoricalParameterRanges"}
    names = {entry.get("Name") for found in numbers.values() for entry in found}
    values = dict[str, dict[str, None]]()
    for trial in trials:
        for name, value in trial["TunedHyperParameters"].items():
            if name not in names:
                values.setdefault(name, {})[value] = None
    tried = [{"Name": name, "Values": list(found)} for name, found in values.items()]
    return numbers | {"CategoricalParameterRanges": tried}


def _points(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        return entries(json.loads(parameters.get("points", "")))
    return []
