"""A request in SageMaker's own words, the plain dict that boto3 sends: what it says, and where.

CreateTrainingJob and CreateHyperParameterTuningJob. These functions take a request as it comes, whatever its
values are: a value of a wrong type reads as absent, and `aws_model` reports it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ml.errors import UserError

TRAINING = "CreateTrainingJob"
TUNING = "CreateHyperParameterTuningJob"

# What the YAML files ship with: it passes AWS's patterns, and it is nobody's account.
PLACEHOLDER_ACCOUNT = "111122223333"

FIRST_HOST = "algo-1"  # the one that reports

# S3's rule; upper case and underscores are of buckets made before 2018.
_BUCKET = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")

# What says where and on what a job runs, whatever it trains; checkpoints are a job's own.
JOB_PARTS = (
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "Environment",
    "VpcConfig",
)

RANGE_KINDS = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float, "CategoricalParameterRanges": str}


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is a mapping, an empty one elsewhere."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list; none where the value is no list."""
    return [mapping(entry) for entry in value] if isinstance(value, list) else []


def name_key(request: dict[str, Any]) -> str:
    """The key that holds a request's name."""
    return "HyperParameterTuningJobName" if operation_of(request) == TUNING else "TrainingJobName"


def name_of(request: dict[str, Any]) -> str:
    """The job's name."""
    return request[name_key(request)]


def operation_of(request: dict[str, Any]) -> str:
    """Which of the two operations a request is for."""
    return TUNING if "HyperParameterTuningJobConfig" in request else TRAINING


def training_part(request: dict[str, Any]) -> dict[str, Any]:
    """The part that describes a training job: the request itself, or a tuning job's definition."""
    part = request.get("TrainingJobDefinition", request) if operation_of(request) == TUNING else request
    return part if isinstance(part, dict) else {}


def at_job(request: dict[str, Any]) -> str:
    """What the path of a training job's key begins with in messages."""
    return "TrainingJobDefinition." if operation_of(request) == TUNING else ""


def at_parameters(request: dict[str, Any]) -> str:
    """The path of `hyperparameters_of` in messages."""
    return f"{at_job(request)}StaticHyperParameters" if operation_of(request) == TUNING else "HyperParameters"


def has_own_script(request: dict[str, Any]) -> bool:
    """Whether the job is a script of the user's, which the image's toolkit runs in place of our program."""
    return "sagemaker_program" in hyperparameters_of(request)


def hyperparameters_of(request: dict[str, Any]) -> dict[str, str]:
    """The hyperparameters that every job of the request gets; made where there are none."""
    name = "StaticHyperParameters" if operation_of(request) == TUNING else "HyperParameters"
    return training_part(request).setdefault(name, {})


def set_hyperparameter(request: dict[str, Any], name: str, value: str) -> None:
    """Fixes a hyperparameter; one that was tuned is tuned no more."""
    hyperparameters_of(request)[name] = value
    ranges = mapping(mapping(request.get("HyperParameterTuningJobConfig")).get("ParameterRanges"))
    for kind in RANGE_KINDS:
        if isinstance(ranges.get(kind), list):
            ranges[kind] = [entry for entry in ranges[kind] if mapping(entry).get("Name") != name]


def ranges_of(request: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(kind, range) of every tuned hyperparameter; kind is a key of RANGE_KINDS."""
    ranges = mapping(mapping(request.get("HyperParameterTuningJobConfig")).get("ParameterRanges"))
    return [(kind, entry) for kind in RANGE_KINDS for entry in entries(ranges.get(kind))]


def objective_of(request: dict[str, Any]) -> tuple[str, bool]:
    """The objective metric's name and whether more of it is better."""
    config = mapping(request.get("HyperParameterTuningJobConfig"))
    objective = mapping(config.get("HyperParameterTuningJobObjective"))
    return str(objective.get("MetricName")), objective.get("Type") == "Maximize"


def s3_sources(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Channel name to its S3DataSource; S3Uri is file:///... for a file or folder on this machine."""
    sources = {
        str(channel.get("ChannelName")): mapping(mapping(channel.get("DataSource")).get("S3DataSource"))
        for channel in entries(training_part(request).get("InputDataConfig"))
    }
    return {name: source for name, source in sources.items() if isinstance(source.get("S3Uri"), str)}


def host_names(job: dict[str, Any]) -> list[str]:
    """The hosts of a training job's request or record, algo-1, algo-2, ...; one where it does not say."""
    resources = mapping(job.get("ResourceConfig"))
    groups = entries(resources.get("InstanceGroups"))
    choices = [resources, *entries(resources.get("InstancePreferences"))]
    count = (
        sum(group.get("InstanceCount", 0) for group in groups)
        if groups
        else resources.get("SelectedInstanceCount")
        or next((choice["InstanceCount"] for choice in choices if "InstanceCount" in choice), 1)
    )
    return [f"algo-{number}" for number in range(1, max(count, 1) + 1)]


def refuse_unknown_host(job: dict[str, Any], host: str) -> None:
    """Refuses the name of a host that a training job does not have.

    Raises:
        UserError: with the hosts that it has.
    """
    if host not in (names := host_names(job)):
        those = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        raise UserError(f"the job has no host {host!r}; it has {those}")


def file_uri(paths: Sequence[Path]) -> str:
    """The file:// URI of files or folders of this machine; several are joined by `|`, which no such URI has."""
    return "|".join(path.resolve().as_uri() for path in paths)


def local_paths(uri: str) -> list[Path]:
    """The paths of `file_uri`'s result; what is special in URIs, blanks among them, is percent-encoded in it."""
    return [Path(url2pathname(urlsplit(each).path)) for each in uri.split("|")]


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI; keys may have what `urlsplit` cuts at."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def bucket_name(text: str) -> str:
    """The name of a bucket that is given as a name, as s3://NAME or with a slash after it.

    Raises:
        ValueError: it is no name of a bucket.
    """
    name = text.removeprefix("s3://").removesuffix("/")
    if not _BUCKET.fullmatch(name):
        raise ValueError(f"a bucket is a name of 3 to 63 letters, digits, dots and dashes, received {text[:80]!r}")
    return name
