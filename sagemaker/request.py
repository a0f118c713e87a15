"""A request in SageMaker's own words: read, completed, checked.

A request is the plain dict that boto3 sends (CreateTrainingJob, CreateHyperParameterTuningJob). Checking needs
no account and no network: the limits come from botocore's service model, the hyperparameters' from
`ml.settings`, and the rules that neither of them knows are written out below.
"""

import difflib
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import botocore.model
import botocore.session
import yaml

from ml.errors import UserError
from ml.metrics import FOLDS, METRICS, metric_definitions
from ml.settings import SETTINGS, parse_value, problems_with, unknown_name

TRAINING = "CreateTrainingJob"
TUNING = "CreateHyperParameterTuningJob"

# What the YAML files ship with: it passes AWS's patterns, and it is nobody's account.
PLACEHOLDER_ACCOUNT = "111122223333"

_MAX_RUNTIME_SECONDS = 28 * 24 * 3600
_MAX_HYPERPARAMETERS = 100
_MAX_RANGES = 30
RANGE_KINDS = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float, "CategoricalParameterRanges": str}


class WrongRequest(UserError):
    """A request that would be refused, with every problem found in it."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


class _WrongType(str):
    """A problem after which the request is not as the rest of the program takes it to be."""


def read_request(path: Path, operation: str) -> dict[str, Any]:
    """The request in a YAML or JSON file, with hyperparameters and environment values as text.

    Every value in it is of the service model's type; the rest is for `check`, once it is complete.

    Args:
        path: the file.
        operation: TRAINING or TUNING: what the request must be for.

    Raises:
        UserError: the file cannot be read, or is for the other operation, or holds something else.
        WrongRequest: values are of wrong types.
    """
    try:
        request = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"the request {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(request, dict):
        raise UserError(
            f"the request {path} must be a mapping such as sagemaker/training_job.yaml, "
            f"received {type(request).__name__}"
        )
    if operation_of(request) != operation:
        raise UserError(
            f"the request {path} {'has no' if operation == TUNING else 'has a'} "
            f"HyperParameterTuningJobConfig; `train` takes a {TRAINING}, `tune` a {TUNING} request"
        )
    job = training_part(request)
    for name in ("HyperParameters", "StaticHyperParameters", "Environment"):
        if isinstance(job.get(name), dict):
            job[name] = {str(key): as_text(value) for key, value in job[name].items()}
    if wrong := [problem for problem in _model_problems(request) if isinstance(problem, _WrongType)]:
        raise WrongRequest(wrong)
    return request


def as_text(value: Any) -> str:
    """A YAML scalar as SageMaker takes it: every value is text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def operation_of(request: dict[str, Any]) -> str:
    """Which of the two operations a request is for."""
    return TUNING if "HyperParameterTuningJobConfig" in request else TRAINING


def training_part(request: dict[str, Any]) -> dict[str, Any]:
    """The part that describes a training job: the request itself, or a tuning job's definition."""
    part = request.get("TrainingJobDefinition", request) if operation_of(request) == TUNING else request
    return part if isinstance(part, dict) else {}


def hyperparameters_of(request: dict[str, Any]) -> dict[str, str]:
    """The hyperparameters that every job of the request gets; made where there are none."""
    name = "StaticHyperParameters" if operation_of(request) == TUNING else "HyperParameters"
    return training_part(request).setdefault(name, {})


def set_hyperparameter(request: dict[str, Any], name: str, value: str) -> None:
    """Fixes a hyperparameter; one that was tuned is tuned no more."""
    hyperparameters_of(request)[name] = value
    ranges = _mapping(_mapping(request.get("HyperParameterTuningJobConfig")).get("ParameterRanges"))
    for kind in RANGE_KINDS:
        if isinstance(ranges.get(kind), list):
            ranges[kind] = [entry for entry in ranges[kind] if _mapping(entry).get("Name") != name]


def add_metric_definitions(request: dict[str, Any]) -> None:
    """Completes a request with the regexes of the metrics that the job prints; a user's own script prints its own."""
    algorithm = training_part(request).setdefault("AlgorithmSpecification", {})
    if "sagemaker_program" not in hyperparameters_of(request) or "MetricDefinitions" not in algorithm:
        algorithm["MetricDefinitions"] = metric_definitions()


def check(request: dict[str, Any], place: str) -> None:
    """Refuses a request that AWS or the job would refuse.

    Args:
        request: complete, as it would be sent.
        place: local, docker or aws; the first two need no account, so placeholders may stay.

    Raises:
        WrongRequest: with every problem, each as `where: what is allowed, received what`.
    """
    problems = list(_model_problems(request))
    if any(isinstance(problem, _WrongType) for problem in problems):  # the rules below count on the types
        raise WrongRequest(problems)
    problems += _training_problems(request)
    if operation_of(request) == TUNING:
        problems += _tuning_problems(request, place)
    problems += _aws_problems(request) if place == "aws" else _elsewhere_problems(request)
    if problems:
        raise WrongRequest(list(dict.fromkeys(problems)))


def _model_problems(request: dict[str, Any]) -> Iterator[str]:
    shape = _service_model().operation_model(operation_of(request)).input_shape
    return _shape_problems(shape, _with_remote_channels(request), "")


@functools.cache
def _service_model() -> botocore.model.ServiceModel:
    return botocore.session.get_session().get_service_model("sagemaker")


def _mapping(value: Any) -> dict[str, Any]:
    """The value where it is a mapping; its being another thing is reported by the walk over the shapes."""
    return value if isinstance(value, dict) else {}


def _entries(value: Any) -> list[dict[str, Any]]:
    return [_mapping(entry) for entry in value] if isinstance(value, list) else []


def s3_sources(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Channel name to its S3DataSource; S3Uri is file:///... for a file or folder on this machine."""
    sources = {
        str(channel.get("ChannelName")): _mapping(_mapping(channel.get("DataSource")).get("S3DataSource"))
        for channel in _entries(training_part(request).get("InputDataConfig"))
    }
    return {name: source for name, source in sources.items() if isinstance(source.get("S3Uri"), str)}


def local_path(uri: str) -> Path:
    """The path of a file:// URI, which holds what is special in URIs, blanks among them, percent-encoded."""
    return Path(url2pathname(urlsplit(uri).path))


def _with_remote_channels(request: dict[str, Any]) -> dict[str, Any]:
    """The request with file:// channels, which only local places have, in a form that the model accepts."""

    def replaced(value):
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return re.sub("^file:///", "s3://", value) if isinstance(value, str) else value

    part = training_part(request)
    if not any(source["S3Uri"].startswith("file:///") for source in s3_sources(request).values()):
        return request
    part = {**part, "InputDataConfig": replaced(part["InputDataConfig"])}
    return part if training_part(request) is request else {**request, "TrainingJobDefinition": part}


# The service model: types, required and unknown keys, lengths, ranges, patterns, enumerations

_TYPES = {
    "structure": (dict, "a mapping"),
    "map": (dict, "a mapping"),
    "list": (list, "a list"),
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "long": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "double": ((int, float), "a number"),
    "boolean": (bool, "true or false"),
}


def _shape_problems(shape: botocore.model.Shape, value: Any, where: str) -> Iterator[str]:
    expected, words = _TYPES.get(shape.type_name, (object, "a value"))
    if not isinstance(value, expected) or (isinstance(value, bool) and shape.type_name != "boolean"):
        yield _WrongType(f"{where}: must be {words}, received {_short(value)}")
    elif shape.type_name == "structure":
        yield from _structure_problems(shape, value, where)
    elif shape.type_name == "list":
        yield from _size_problems(shape, len(value), f"{len(value)} entries", "entries", where)
        for index, item in enumerate(value):
            yield from _shape_problems(shape.member, item, f"{where}[{index}]")
    elif shape.type_name == "map":
        yield from _size_problems(shape, len(value), f"{len(value)} entries", "entries", where)
        for key, item in value.items():
            yield from _shape_problems(shape.key, key, f"{where}, a key")
            yield from _shape_problems(shape.value, item, f"{where}.{key}")
    elif shape.type_name == "string":
        yield from _string_problems(shape, value, where)
    elif shape.type_name != "boolean":
        yield from _size_problems(shape, value, repr(value), "", where)


def _structure_problems(shape, value, where):
    prefix = f"{where}." if where else ""
    for key in value.keys() - shape.members.keys():
        nearest = difflib.get_close_matches(str(key), shape.members, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(shape.members)}"
        yield f"{prefix}{key}: unknown key, received {value[key]!r}; {hint}"
    for key in shape.required_members:
        if key not in value:
            yield f"{prefix}{key}: missing; it is required"
    for key in value:
        if key in shape.members:
            yield from _shape_problems(shape.members[key], value[key], f"{prefix}{key}")


def _size_problems(shape, size, received, unit, where):
    low, high = shape.metadata.get("min", -math.inf), shape.metadata.get("max", math.inf)
    if not low <= size <= high:
        allowed = (
            f"be at least {low}"
            if high == math.inf
            else f"have {low} to {high} {unit}"
            if unit
            else f"be in [{low}, {high}]"
        )
        yield f"{where}: must {allowed}, received {received}"


def _string_problems(shape, value, where):
    wrong_size = list(_size_problems(shape, len(value), f"{len(value)}: {_short(value)}", "characters", where))
    yield from wrong_size
    if value not in (shape.enum or [value]):
        allowed = ", ".join(shape.enum)
        if len(shape.enum) > 12:
            nearest = difflib.get_close_matches(value, shape.enum, n=3, cutoff=0) or shape.enum[:3]
            allowed = f"{len(shape.enum)} names, the nearest {', '.join(nearest)}"
        yield f"{where}: must be one of {allowed}, received {_short(value)}"
    pattern = shape.metadata.get("pattern")
    if pattern and not wrong_size and not re.fullmatch(_python_pattern(pattern), value):
        yield f"{where}: must match {pattern}, received {_short(value)}"


def _python_pattern(pattern: str) -> str:
    """A pattern of the model, which is Java's, for `re`, which has no Unicode classes by property."""
    return pattern.replace(r"\p{L}\p{Z}\p{N}", r"\w\s").replace(r"\p{Alnum}", "a-zA-Z0-9")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# What the model does not say


def _training_problems(request):
    job = training_part(request)
    stopping = _mapping(job.get("StoppingCondition"))
    runtime, wait = stopping.get("MaxRuntimeInSeconds"), stopping.get("MaxWaitTimeInSeconds")
    at = _at(request)
    spot = job.get("EnableManagedSpotTraining") is True
    if isinstance(runtime, int) and runtime > _MAX_RUNTIME_SECONDS:
        yield (
            f"{at}StoppingCondition.MaxRuntimeInSeconds: must be at most {_MAX_RUNTIME_SECONDS} (28 days), "
            f"received {runtime}"
        )
    if spot and wait is None:
        yield (
            f"{at}StoppingCondition.MaxWaitTimeInSeconds: missing; spot training needs it, at least "
            f"MaxRuntimeInSeconds ({runtime})"
        )
    elif spot and isinstance(wait, int) and isinstance(runtime, int) and wait < runtime:
        yield (
            f"{at}StoppingCondition.MaxWaitTimeInSeconds: must be at least MaxRuntimeInSeconds ({runtime}), "
            f"received {wait}"
        )
    elif not spot and wait is not None:
        yield (
            f"{at}StoppingCondition.MaxWaitTimeInSeconds: only spot training has it, received {wait}; remove "
            "it or set EnableManagedSpotTraining: true"
        )
    resources = _mapping(job.get("ResourceConfig"))
    if spot and resources.get("KeepAlivePeriodInSeconds"):
        yield (
            f"{at}ResourceConfig.KeepAlivePeriodInSeconds: a spot instance cannot be kept warm, received "
            f"{resources['KeepAlivePeriodInSeconds']}; remove it or --spot"
        )
    algorithm = _mapping(job.get("AlgorithmSpecification"))
    if not algorithm.get("TrainingImage"):
        yield f"{at}AlgorithmSpecification.TrainingImage: missing; give --image, such as the one `push` prints"
    for index, definition in enumerate(_entries(algorithm.get("MetricDefinitions"))):
        where, regex = f"{at}AlgorithmSpecification.MetricDefinitions[{index}].Regex", definition.get("Regex", "()")
        try:
            if not re.compile(regex).groups:
                yield f"{where}: must have a group for the value, received {_short(regex)}"
        except re.error as error:
            yield f"{where}: is no regular expression ({error}), received {_short(regex)}"
    for name, times in Counter(
        str(channel.get("ChannelName")) for channel in _entries(job.get("InputDataConfig"))
    ).items():
        if times > 1:
            yield f"{at}InputDataConfig: channel names must differ, received {name!r} {times} times"
    yield from _hyperparameter_problems(request, resources, at)


def _elsewhere_problems(request):
    """What only SageMaker has."""
    here = s3_sources(request)
    for entry in _entries(training_part(request).get("InputDataConfig")):
        if (name := str(entry.get("ChannelName"))) not in here:
            yield (
                f"{_at(request)}InputDataConfig.{name}: must be in S3 or on this machine, received "
                f"{_short(entry.get('DataSource'))}; other sources exist on aws alone"
            )


def _hyperparameter_problems(request, resources, at):
    at_parameters = _at_parameters(request)
    parameters = hyperparameters_of(request)
    if not isinstance(parameters, dict) or "sagemaker_program" in parameters:
        return  # a script of the user's own takes what it likes
    values, problems = problems_with(parameters)
    for problem in problems:
        yield f"{at_parameters}: {problem}"
    count = resources.get("InstanceCount", 1)
    if isinstance(count, int) and count > 1:
        yield (
            f"{at}ResourceConfig.InstanceCount: must be 1, since a job trains on one host, received {count}; "
            "choose an instance with more GPUs"
        )
    channel = values.get("prices_channel", SETTINGS["prices_channel"].default)
    channels = [str(entry.get("ChannelName")) for entry in _entries(training_part(request).get("InputDataConfig"))]
    if values.get("prices_db") and channel in channels:
        yield (
            f"{at}InputDataConfig.{channel}: would not be read, since {at_parameters}.prices_db is "
            f"{values['prices_db']!r}; remove one of them"
        )
    if not values.get("prices_db") and channel not in channels:
        yield (
            f"{at}InputDataConfig: must have the channel {channel!r} with the price history where "
            f"{at_parameters} has no prices_db, received {', '.join(channels) or 'no channel'}; give --prices FILE, "
            f"--channel {channel}=s3://... or --set prices_db=URL"
        )
    if training_part(request).get("EnableNetworkIsolation"):
        for name in ("prices_db", "model_db"):
            if values.get(name) and not values[name].startswith("files://"):
                yield (
                    f"{at_parameters}.{name}: cannot be reached with EnableNetworkIsolation: true, received "
                    f"{values[name]!r}; read prices from a channel and `publish` the model afterwards"
                )


def _at(request):
    return "TrainingJobDefinition." if operation_of(request) == TUNING else ""


def _at_parameters(request):
    return "TrainingJobDefinition.StaticHyperParameters" if operation_of(request) == TUNING else "HyperParameters"


def ranges_of(request: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(kind, range) of every tuned hyperparameter; kind is a key of RANGE_KINDS."""
    ranges = _mapping(_mapping(request.get("HyperParameterTuningJobConfig")).get("ParameterRanges"))
    return [(kind, entry) for kind in RANGE_KINDS for entry in _entries(ranges.get(kind))]


def _tuning_problems(request, place):
    config = _mapping(request["HyperParameterTuningJobConfig"])
    if "TrainingJobDefinitions" in request or "TrainingJobDefinition" not in request:
        yield "TrainingJobDefinition: missing; this launcher tunes exactly one definition"
    ranges = ranges_of(request)
    static = hyperparameters_of(request)
    at = "HyperParameterTuningJobConfig"
    if not ranges:
        yield f"{at}.ParameterRanges: must have at least one range, received none"
    if len(ranges) > _MAX_RANGES:
        yield f"{at}.ParameterRanges: must be at most {_MAX_RANGES} ranges in total, received {len(ranges)}"
    total = len(static) + len(ranges) + 1  # SageMaker adds _tuning_objective_metric
    if total > _MAX_HYPERPARAMETERS:
        yield (
            f"TrainingJobDefinition.StaticHyperParameters: static, tuned and SageMaker's own must be at most "
            f"{_MAX_HYPERPARAMETERS} together, received {total}"
        )
    counts = Counter(str(entry.get("Name")) for _, entry in ranges)
    for name, times in counts.items():
        if times > 1:
            yield f"{at}.ParameterRanges: {name} must have one range, received {times}"
        if name in static:
            yield (
                f"TrainingJobDefinition.StaticHyperParameters.{name}: is tuned as well, received "
                f"{static[name]!r}; keep the range or the value"
            )
    for kind, entry in ranges:
        yield from _range_problems(kind, entry, own_script="sagemaker_program" in static)
    yield from _objective_problems(request, config, static)
    yield from _strategy_problems(config, ranges, static)
    criteria = _mapping(config.get("TuningJobCompletionCriteria"))
    for where, value in (
        ("Autotune", request.get("Autotune")),
        (f"{at}.TuningJobCompletionCriteria.ConvergenceDetected", criteria.get("ConvergenceDetected")),
    ):
        if place != "aws" and value:
            yield f"{where}: only SageMaker does it, received {value!r}; remove it or tune --on aws"


def _range_problems(kind, entry, *, own_script):
    name = str(entry.get("Name"))
    at = f"HyperParameterTuningJobConfig.ParameterRanges.{kind}.{name}"
    if own_script:
        return
    if name not in SETTINGS:
        yield f"{at}: {unknown_name(name)}"
        return
    field = SETTINGS[name]
    if field.metadata["scaling"] is None:
        tunable = [name for name, field in SETTINGS.items() if field.metadata["scaling"]]
        yield f"{at}: makes no sense to tune; tunable are {', '.join(tunable)}"
        return
    if kind != "CategoricalParameterRanges" and field.type is not RANGE_KINDS[kind]:
        right = {int: "IntegerParameterRanges", float: "ContinuousParameterRanges"}.get(
            field.type, "CategoricalParameterRanges"
        )
        yield f"{at}: must be under {right}, since it is of type {field.type.__name__}, received {kind}"
        return
    texts = (
        entry.get("Values", [])
        if kind == "CategoricalParameterRanges"
        else [entry.get("MinValue"), entry.get("MaxValue")]
    )
    try:
        bounds = [parse_value(name, text) for text in texts]
    except UserError as error:
        yield f"{at}: {error}"
        return
    if kind == "CategoricalParameterRanges":
        return
    low, high = bounds
    if low >= high:
        yield f"{at}: MinValue must be below MaxValue, received {texts[0]} and {texts[1]}"
    scaling = entry.get("ScalingType", "Auto")
    if scaling == "Logarithmic" and low <= 0:
        yield f"{at}: MinValue must be above 0 for ScalingType Logarithmic, received {texts[0]}"
    if scaling == "ReverseLogarithmic" and (kind != "ContinuousParameterRanges" or not 0 <= low < high < 1):
        yield (
            f"{at}: ScalingType ReverseLogarithmic needs a continuous range within [0, 1), received "
            f"{texts[0]} to {texts[1]} under {kind}"
        )


def objective_of(request: dict[str, Any]) -> tuple[str, bool]:
    """The objective metric's name and whether more of it is better."""
    config = _mapping(request.get("HyperParameterTuningJobConfig"))
    objective = _mapping(config.get("HyperParameterTuningJobObjective"))
    return str(objective.get("MetricName")), objective.get("Type") == "Maximize"


def _objective_problems(request, config, static):
    at = "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective"
    if "HyperParameterTuningJobObjective" not in config:
        yield f"{at}: missing; name the metric to tune for, such as best_val_accuracy"
        return
    name, _ = objective_of(request)
    goal = _mapping(config["HyperParameterTuningJobObjective"]).get("Type")
    if "sagemaker_program" in static:
        return
    goals = {metric.name: metric.goal for metric in METRICS.values() if metric.goal}
    if name not in goals:
        yield f"{at}.MetricName: must be one of {', '.join(goals)}, received {name!r}"
    elif goal in ("Maximize", "Minimize") and goal != goals[name]:
        yield f"{at}.Type: must be {goals[name]} for {name}, received {goal!r}"
    elif config.get("Strategy") == "Hyperband" and METRICS[name].once:
        yield f"{at}.MetricName: Hyperband needs a metric of every epoch, received {name!r}, which comes once a job"
    elif METRICS[name].group == FOLDS and static.get("folds", "1") in ("1", "1.0"):
        yield f"{at}.MetricName: {name} is a mean over the folds; set folds to 2 or more, or tune for another metric"
    if "val_" in name and static.get("validation_fraction") in ("0", "0.0"):
        yield (
            f"{at}.MetricName: {name!r} needs a validation part, received validation_fraction="
            f"{static['validation_fraction']}"
        )


def _strategy_problems(config, ranges, static):
    at = "HyperParameterTuningJobConfig"
    strategy = config.get("Strategy")
    limits = _mapping(config.get("ResourceLimits"))
    most, parallel = limits.get("MaxNumberOfTrainingJobs"), limits.get("MaxParallelTrainingJobs")
    if isinstance(most, int) and isinstance(parallel, int) and parallel > most:
        yield (
            f"{at}.ResourceLimits.MaxParallelTrainingJobs: must be at most MaxNumberOfTrainingJobs ({most}), "
            f"received {parallel}"
        )
    if strategy == "Grid":
        others = [str(entry.get("Name")) for kind, entry in ranges if kind != "CategoricalParameterRanges"]
        if others:
            yield (
                f"{at}.Strategy: Grid takes CategoricalParameterRanges only, received other ranges of "
                f"{', '.join(others)}"
            )
        points = math.prod(len(entry.get("Values", [])) for _, entry in ranges)
        if most is not None and most != points and not others:
            yield (
                f"{at}.ResourceLimits.MaxNumberOfTrainingJobs: must be the grid's {points} points or be left "
                f"out, received {most}"
            )
    elif most is None:
        yield f"{at}.ResourceLimits.MaxNumberOfTrainingJobs: missing; {strategy} needs it"
    hyperband = _mapping(_mapping(config.get("StrategyConfig")).get("HyperbandStrategyConfig"))
    if strategy == "Hyperband":
        if config.get("TrainingJobEarlyStoppingType", "Off") != "Off":
            yield (
                f"{at}.TrainingJobEarlyStoppingType: must be Off with Hyperband, which stops jobs itself, "
                f"received {config['TrainingJobEarlyStoppingType']!r}"
            )
        if "MaxResource" not in hyperband and "epochs" not in static:
            yield (
                f"{at}.StrategyConfig.HyperbandStrategyConfig.MaxResource: missing; give it, or epochs in "
                "StaticHyperParameters"
            )
        if hyperband.get("MinResource", 1) >= hyperband.get("MaxResource", math.inf):
            yield (
                f"{at}.StrategyConfig.HyperbandStrategyConfig.MinResource: must be below MaxResource "
                f"({hyperband['MaxResource']}), received {hyperband['MinResource']}"
            )
        if any(entry.get("Name") == "epochs" for _, entry in ranges):
            yield f"{at}.ParameterRanges: epochs is Hyperband's resource and cannot be tuned as well"
    elif hyperband:
        yield f"{at}.StrategyConfig.HyperbandStrategyConfig: only for Strategy Hyperband, received {strategy!r}"


def _aws_problems(request):
    """What is only here."""
    job, at = training_part(request), _at(request)
    for name in ("prices_db", "model_db"):
        if (url := str(hyperparameters_of(request).get(name, ""))).startswith("files:"):
            yield (
                f"{_at_parameters(request)}.{name}: is a folder that SageMaker's instances do not have, received "
                f"{url!r}; use s3:// or dynamodb://, or for prices --prices FILE"
            )
    image = _mapping(job.get("AlgorithmSpecification")).get("TrainingImage")
    for name, value, cure in (
        ("RoleArn", job.get("RoleArn"), "--role or POSITION_TRAINER_ROLE"),
        ("AlgorithmSpecification.TrainingImage", image, "--image or POSITION_TRAINER_IMAGE (`push` prints it)"),
        (
            "OutputDataConfig.S3OutputPath",
            _mapping(job.get("OutputDataConfig")).get("S3OutputPath"),
            "--bucket or POSITION_TRAINER_BUCKET",
        ),
        (
            "CheckpointConfig.S3Uri",
            _mapping(job.get("CheckpointConfig")).get("S3Uri"),
            "--bucket or POSITION_TRAINER_BUCKET",
        ),
    ):
        if PLACEHOLDER_ACCOUNT in str(value):
            yield f"{at}{name}: must be your account's, received the placeholder {value!r}; give {cure}"
