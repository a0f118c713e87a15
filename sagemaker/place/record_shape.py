"""What commands take for granted of a record and of a metrics.json, so that a damaged one ends no command.

Standard library only.
"""

import re
from datetime import datetime
from typing import Any, TypeGuard


def misfit(record: Any) -> str:
    """The name of the first part of a record that is not what it must be where it is there; empty where all is."""
    return _misfit(record, _RECORD, "record")


def fits_metrics(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a metrics.json can be read where it is read."""
    return (
        isinstance(content, dict)
        and {"best", "best_epoch", "epochs"} <= content.keys()
        and not _misfit(content, _METRICS, "metrics")
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int


def _is_count_or_none(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)  # JSON has null for nan


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_expression(value: Any) -> bool:
    try:
        return re.compile(value).groups > 0
    except (TypeError, ValueError, re.error, RecursionError):
        return False


# A check, [of each entry, which must have all names], {name: of it}, or {None: of each value}.
_TEXTS = {None: _is_text}
_RECORD = {
    **dict.fromkeys(("TrainingJobName", "TrainingJobStatus", "SecondaryStatus", "CreationTime"), _is_text),
    **dict.fromkeys(("HyperParameterTuningJobName", "HyperParameterTuningJobStatus", "CompletionReason"), _is_text),
    **dict.fromkeys(("TuningJobName", "SearchId", "Place", "ModelDb", "DockerNetwork", "FailureReason"), _is_text),
    **dict.fromkeys(("TrainingStartTime", "TrainingEndTime", "HyperParameterTuningEndTime"), _is_time),
    **dict.fromkeys(("RunnerPid", "TrainingTimeInSeconds", "ExitCode", "RandomSeed"), _is_count),
    **dict.fromkeys(("HyperParameters", "ContainerLabels"), _TEXTS),
    "Cores": [_is_count],
    "ResourceConfig": {"InstanceCount": _is_count},
    "ContainerNetwork": {"Name": _is_text},
    "Hosts": [
        {
            "HostName": _is_text,
            "Cores": [_is_count],
            "Command": [_is_text],
            "CommandEnvironment": _TEXTS,
            **dict.fromkeys(("JobPid", "ExitCode"), _is_count_or_none),
        }
    ],
    "AlgorithmSpecification": {
        "TrainingImage": _is_text,
        "MetricDefinitions": [{"Name": _is_text, "Regex": _is_expression}],
    },
    "StoppingCondition": {None: _is_count},
    "FinalMetricDataList": [{"MetricName": _is_text, "Value": _is_number}],
    "HyperParameterTuningJobConfig": {
        "HyperParameterTuningJobObjective": _TEXTS,
        "ParameterRanges": {None: [{"Name": _is_text}]},
        "ResourceLimits": {None: _is_count},
    },
    "TrainingJobDefinition": {"StaticHyperParameters": _TEXTS},
}

_METRICS = {
    "best": {},
    "epochs": [{}],
    "performance": {"metrics": {}},
    "folds": [{}],
    "population": [{}],
}


def _misfit(value: Any, shape: Any, name: str) -> str:
    if callable(shape):
        return "" if shape(value) else name
    if isinstance(shape, list):
        if not isinstance(value, list):
            return name
        needed = shape[0].keys() if isinstance(shape[0], dict) else set()
        if any(needed - entry.keys() for entry in value if isinstance(entry, dict)):
            return name
        parts = [(entry, shape[0], name) for entry in value]
    else:
        if not isinstance(value, dict):
            return name
        parts = [(value[key], part, key) for key, part in shape.items() if key in value]
        if None in shape:
            parts = [(part, shape[None], f"{name}.{key}") for key, part in value.items()]
    return next((odd for part in parts if (odd := _misfit(*part))), "")
