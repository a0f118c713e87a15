"""The rules that AWS's model does not hold: limits that its documentation words, and what the job itself needs.

Every problem is a sentence, `where: what is allowed, received what`.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from aws_model import find_problems, short
from ml.errors import UserError
from ml.hyperparameters import parse_value, problems_with, unknown_name
from ml.metrics import METRICS
from ml.settings import SETTINGS
from request import (
    PLACEHOLDER_ACCOUNT,
    RANGE_KINDS,
    TUNING,
    entries,
    hyperparameters_of,
    mapping,
    objective_of,
    operation_of,
    ranges_of,
    s3_sources,
    training_part,
)

_MAX_RUNTIME_SECONDS = 28 * 24 * 3600
_MAX_HYPERPARAMETERS = 100
_MAX_RANGES = 30


class WrongRequest(UserError):
    """A request that would be refused, with every problem found in it."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


def check(request: dict[str, Any], problems_of_place: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    """Refuses a request that AWS, the job or the place would refuse.

    Args:
        request: complete, as it would be sent.
        problems_of_place: what a place refuses on its own account (`Place.problems_with`).

    Raises:
        WrongRequest: with every problem.
    """
    found = find_problems(request)
    problems = [problem.text for problem in found]
    if not any(problem.wrong_type for problem in found):  # the rules count on the types
        problems += _stopping_problems(request)
        problems += _algorithm_problems(request)
        problems += _hyperparameter_problems(request)
        problems += _tuning_problems(request) if operation_of(request) == TUNING else ()
        problems += problems_of_place(request)
    if problems:
        raise WrongRequest(list(dict.fromkeys(problems)))


def refuse_wrong_types(request: dict[str, Any]) -> None:
    """Refuses a request with values of wrong types, whatever else it may lack so far.

    Raises:
        WrongRequest: with every value that is of a wrong type.
    """
    if wrong := [problem.text for problem in find_problems(request) if problem.wrong_type]:
        raise WrongRequest(wrong)


def problems_on_this_machine(request: dict[str, Any]) -> Iterator[str]:
    """What SageMaker has and a place on this machine has not."""
    here = s3_sources(request)
    for entry in entries(training_part(request).get("InputDataConfig")):
        if (name := str(entry.get("ChannelName"))) not in here:
            yield (
                f"{_at(request)}InputDataConfig.{name}: must be in S3 or on this machine, received "
                f"{short(entry.get('DataSource'))}; other sources exist on aws alone"
            )
    criteria = mapping(mapping(request.get("HyperParameterTuningJobConfig")).get("TuningJobCompletionCriteria"))
    for where, value in (
        ("Autotune", request.get("Autotune")),
        (
            "HyperParameterTuningJobConfig.TuningJobCompletionCriteria.ConvergenceDetected",
            criteria.get("ConvergenceDetected"),
        ),
    ):
        if value:
            yield f"{where}: only SageMaker does it, received {value!r}; remove it or tune --on aws"


def problems_on_sagemaker(request: dict[str, Any]) -> Iterator[str]:
    """What SageMaker cannot reach: KYDB folders of this machine, and the account that the files ship with."""
    job, at = training_part(request), _at(request)
    for name in ("prices_db", "model_db"):
        if (url := str(hyperparameters_of(request).get(name, ""))).startswith("files:"):
            yield (
                f"{_at_parameters(request)}.{name}: is a folder that SageMaker's instances do not have, received "
                f"{url!r}; use s3:// or dynamodb://, or for prices --prices FILE"
            )
    image = mapping(job.get("AlgorithmSpecification")).get("TrainingImage")
    bucket = "--bucket or POSITION_TRAINER_BUCKET"
    for name, value, cure in (
        ("RoleArn", job.get("RoleArn"), "--role or POSITION_TRAINER_ROLE"),
        ("AlgorithmSpecification.TrainingImage", image, "--image or POSITION_TRAINER_IMAGE (`push` prints it)"),
        ("OutputDataConfig.S3OutputPath", mapping(job.get("OutputDataConfig")).get("S3OutputPath"), bucket),
        ("CheckpointConfig.S3Uri", mapping(job.get("CheckpointConfig")).get("S3Uri"), bucket),
    ):
        if PLACEHOLDER_ACCOUNT in str(value):
            yield f"{at}{name}: must be your account's, received the placeholder {value!r}; give {cure}"


def _at(request: dict[str, Any]) -> str:
    return "TrainingJobDefinition." if operation_of(request) == TUNING else ""


def _at_parameters(request: dict[str, Any]) -> str:
    return "TrainingJobDefinition.StaticHyperParameters" if operation_of(request) == TUNING else "HyperParameters"


# Training jobs, and what a tuning job says of its own


def _stopping_problems(request: dict[str, Any]) -> Iterator[str]:
    job = training_part(request)
    stopping = mapping(job.get("StoppingCondition"))
    runtime, wait = stopping.get("MaxRuntimeInSeconds"), stopping.get("MaxWaitTimeInSeconds")
    at = f"{_at(request)}StoppingCondition"
    spot = job.get("EnableManagedSpotTraining") is True
    if isinstance(runtime, int) and runtime > _MAX_RUNTIME_SECONDS:
        yield f"{at}.MaxRuntimeInSeconds: must be at most {_MAX_RUNTIME_SECONDS} (28 days), received {runtime}"
    if spot and wait is None:
        yield (f"{at}.MaxWaitTimeInSeconds: missing; spot training needs it, at least MaxRuntimeInSeconds ({runtime})")
    elif spot and isinstance(wait, int) and isinstance(runtime, int) and wait < runtime:
        yield f"{at}.MaxWaitTimeInSeconds: must be at least MaxRuntimeInSeconds ({runtime}), received {wait}"
    elif not spot and wait is not None:
        yield (
            f"{at}.MaxWaitTimeInSeconds: only spot training has it, received {wait}; remove "
            "it or set EnableManagedSpotTraining: true"
        )
    warm = mapping(job.get("ResourceConfig")).get("KeepAlivePeriodInSeconds")
    if spot and warm:
        yield (
            f"{_at(request)}ResourceConfig.KeepAlivePeriodInSeconds: a spot instance cannot be kept warm, received "
            f"{warm}; remove it or --spot"
        )


def _algorithm_problems(request: dict[str, Any]) -> Iterator[str]:
    job, at = training_part(request), _at(request)
    algorithm = mapping(job.get("AlgorithmSpecification"))
    if not algorithm.get("TrainingImage"):
        yield f"{at}AlgorithmSpecification.TrainingImage: missing; give --image, such as the one `push` prints"
    for index, definition in enumerate(entries(algorithm.get("MetricDefinitions"))):
        where, regex = f"{at}AlgorithmSpecification.MetricDefinitions[{index}].Regex", definition.get("Regex", "()")
        try:
            if not re.compile(regex).groups:
                yield f"{where}: must have a group for the value, received {short(regex)}"
        except re.error as error:
            yield f"{where}: is no regular expression ({error}), received {short(regex)}"
    names = Counter(str(channel.get("ChannelName")) for channel in entries(job.get("InputDataConfig")))
    for name, times in names.items():
        if times > 1:
            yield f"{at}InputDataConfig: channel names must differ, received {name!r} {times} times"


def _hyperparameter_problems(request: dict[str, Any]) -> Iterator[str]:
    job, at, at_parameters = training_part(request), _at(request), _at_parameters(request)
    parameters = hyperparameters_of(request)
    if "sagemaker_program" in parameters:
        return  # a script of the user's own takes what it likes
    values, problems = problems_with(parameters)
    for problem in problems:
        yield f"{at_parameters}: {problem}"
    count = mapping(job.get("ResourceConfig")).get("InstanceCount", 1)
    if isinstance(count, int) and count > 1:
        yield (
            f"{at}ResourceConfig.InstanceCount: must be 1, since a job trains on one host, received {count}; "
            "choose an instance with more GPUs"
        )
    channel = values.get("prices_channel", SETTINGS["prices_channel"].default)
    channels = [str(entry.get("ChannelName")) for entry in entries(job.get("InputDataConfig"))]
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
    if job.get("EnableNetworkIsolation"):
        for name in ("prices_db", "model_db"):
            if values.get(name) and not values[name].startswith("files://"):
                yield (
                    f"{at_parameters}.{name}: cannot be reached with EnableNetworkIsolation: true, received "
                    f"{values[name]!r}; read prices from a channel and `publish` the model afterwards"
                )


# Tuning jobs


def _tuning_problems(request: dict[str, Any]) -> Iterator[str]:
    config = mapping(request["HyperParameterTuningJobConfig"])
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


def _range_problems(kind: str, entry: dict[str, Any], *, own_script: bool) -> Iterator[str]:
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
        own = getattr(field.type, "__name__", field.type)
        yield f"{at}: must be under {right}, since it is of type {own}, received {kind}"
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


def _objective_problems(request: dict[str, Any], config: dict[str, Any], static: dict[str, str]) -> Iterator[str]:
    at = "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective"
    if "HyperParameterTuningJobObjective" not in config:
        yield f"{at}: missing; name the metric to tune for, such as best_val_accuracy"
        return
    name, _ = objective_of(request)
    goal = mapping(config["HyperParameterTuningJobObjective"]).get("Type")
    if "sagemaker_program" in static:
        return
    goals = {metric.name: metric.goal for metric in METRICS.values() if metric.goal}
    if name not in goals:
        yield f"{at}.MetricName: must be one of {', '.join(goals)}, received {name!r}"
    elif goal in ("Maximize", "Minimize") and goal != goals[name]:
        yield f"{at}.Type: must be {goals[name]} for {name}, received {goal!r}"
    elif config.get("Strategy") == "Hyperband" and METRICS[name].once:
        yield f"{at}.MetricName: Hyperband needs a metric of every epoch, received {name!r}, which comes once a job"
    if "val_" in name and static.get("validation_fraction") in ("0", "0.0"):
        yield (
            f"{at}.MetricName: {name!r} needs a validation part, received validation_fraction="
            f"{static['validation_fraction']}"
        )


def _strategy_problems(
    config: dict[str, Any], ranges: list[tuple[str, dict[str, Any]]], static: dict[str, str]
) -> Iterator[str]:
    at = "HyperParameterTuningJobConfig"
    strategy = config.get("Strategy")
    limits = mapping(config.get("ResourceLimits"))
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
    yield from _hyperband_problems(config, ranges, static)


def _hyperband_problems(
    config: dict[str, Any], ranges: list[tuple[str, dict[str, Any]]], static: dict[str, str]
) -> Iterator[str]:
    at = "HyperParameterTuningJobConfig"
    strategy = config.get("Strategy")
    hyperband = mapping(mapping(config.get("StrategyConfig")).get("HyperbandStrategyConfig"))
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
