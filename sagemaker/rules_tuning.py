"""What AWS's documentation and our job's settings say of a search, and AWS's model does not."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from aws_model import short
from ml.errors import UserError
from ml.hyperparameters import parse_value, unknown_name
from ml.metrics import METRICS
from ml.settings import SETTINGS
from request import (
    RANGE_KINDS,
    TUNING,
    entries,
    has_own_script,
    hyperparameters_of,
    mapping,
    objective_of,
    operation_of,
    ranges_of,
    training_part,
)

_MAX_HYPERPARAMETERS = 100
_MAX_RANGES = 30
_MAX_RESOURCE = 20_000
_OBJECTIVE = "HyperParameterTuningJobObjective"
_RESOURCES = ("epochs", "numepochs", "n-epochs", "n_epochs", "num_epochs")  # where Hyperband looks for its MaxResource


def tuning_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a tuning request's search; nothing where the request is for a training job."""
    if operation_of(request) != TUNING:
        return
    config = mapping(request["HyperParameterTuningJobConfig"])
    if "TrainingJobDefinitions" in request or "TrainingJobDefinition" not in request:
        yield "TrainingJobDefinition: missing; this launcher tunes exactly one definition"
    ranges = ranges_of(request)
    static = hyperparameters_of(request)
    at = "HyperParameterTuningJobConfig"
    for name, right in (("HyperParameterRanges", "ParameterRanges"), ("TuningObjective", _OBJECTIVE)):
        if name in mapping(request.get("TrainingJobDefinition")):
            yield f"TrainingJobDefinition.{name}: is for TrainingJobDefinitions; give it as {at}.{right}"
    automatic = mapping(config.get("ParameterRanges")).get("AutoParameters")
    if automatic and "Autotune" not in request:
        yield f"{at}.ParameterRanges.AutoParameters: are for Autotune, which is not in the request; remove one"
    if not ranges and not automatic:
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
        yield from _range_problems(kind, entry, own_script=has_own_script(request))
    yield from _objective_problems(request, config, static)
    yield from _strategy_problems(request, config, ranges, static)
    yield from _warm_start_problems(request)


def _range_problems(kind: str, entry: dict[str, Any], *, own_script: bool) -> Iterator[str]:
    name = str(entry.get("Name"))
    at = f"HyperParameterTuningJobConfig.ParameterRanges.{kind}.{name}"
    if not own_script and (problem := _wrong_kind(kind, name)):
        yield f"{at}: {problem}"
        return
    texts = (
        entry.get("Values", [])
        if kind == "CategoricalParameterRanges"
        else [entry.get("MinValue"), entry.get("MaxValue")]
    )
    try:
        values = [_number(kind, text) if own_script else parse_value(name, text) for text in texts]
    except UserError as error:
        yield f"{at}: {error}"
        return
    if kind == "CategoricalParameterRanges":
        for value, times in Counter(values).items():
            if times > 1:
                same = [text for text, other in zip(texts, values, strict=True) if other == value]
                yield f"{at}: values must differ, received {', '.join(map(repr, same))}"
        return
    low, high = values
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


def _wrong_kind(kind: str, name: str) -> str:
    """Why one of our job's settings cannot have a range of that kind; empty where it can."""
    if name not in SETTINGS:
        return unknown_name(name)
    field = SETTINGS[name]
    if field.metadata["scaling"] is None:
        tunable = [name for name, field in SETTINGS.items() if field.metadata["scaling"]]
        return f"makes no sense to tune; tunable are {', '.join(tunable)}"
    if kind != "CategoricalParameterRanges" and field.type is not RANGE_KINDS[kind]:
        right = {int: "IntegerParameterRanges", float: "ContinuousParameterRanges"}.get(
            field.type, "CategoricalParameterRanges"
        )
        own = getattr(field.type, "__name__", field.type)
        return f"must be under {right}, since it is of type {own}, received {kind}"
    return ""


def _number(kind: str, text: Any) -> Any:
    """A bound or value of a range over a script's own hyperparameter.

    Raises:
        UserError: a bound is no finite number of the range's kind.
    """
    try:
        value = RANGE_KINDS[kind](str(text))
    except ValueError:
        value = math.nan
    if kind != "CategoricalParameterRanges" and not math.isfinite(value):
        what = "whole number" if kind == "IntegerParameterRanges" else "number"
        raise UserError(f"bounds must each be a {what}, received {short(text)}")
    return value


def _warm_start_problems(request: dict[str, Any]) -> Iterator[str]:
    parents = entries(mapping(request.get("WarmStartConfig")).get("ParentHyperParameterTuningJobs"))
    names = [str(parent.get("HyperParameterTuningJobName")) for parent in parents]
    for name, times in Counter(names).items():
        if times > 1:
            yield f"WarmStartConfig: a tuning job can be named once, received {name!r} {times} times"
    if request.get("HyperParameterTuningJobName") in names:
        yield f"WarmStartConfig: a tuning job cannot learn from itself, received {names[0]!r}"


def _objective_problems(request: dict[str, Any], config: dict[str, Any], static: dict[str, str]) -> Iterator[str]:
    at = f"HyperParameterTuningJobConfig.{_OBJECTIVE}"
    if _OBJECTIVE not in config:
        yield f"{at}: missing; name the metric to tune for, such as best_val_accuracy"
        return
    name, _ = objective_of(request)
    goal = mapping(config[_OBJECTIVE]).get("Type")
    if has_own_script(request):
        own = entries(mapping(training_part(request).get("AlgorithmSpecification")).get("MetricDefinitions"))
        if name not in [definition.get("Name") for definition in own]:
            yield f"{at}.MetricName: must be one of the request's MetricDefinitions, received {name!r}"
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
    request: dict[str, Any], config: dict[str, Any], ranges: list[tuple[str, dict[str, Any]]], static: dict[str, str]
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
    elif most is None and "Autotune" not in request:
        yield f"{at}.ResourceLimits.MaxNumberOfTrainingJobs: missing; {strategy} needs it"
    if strategy == "Hyperband":
        yield from _hyperband_problems(request, config, ranges, static)
    elif "StrategyConfig" in config:
        yield f"{at}.StrategyConfig: only for Strategy Hyperband, received {strategy!r}"


def _hyperband_problems(
    request: dict[str, Any], config: dict[str, Any], ranges: list[tuple[str, dict[str, Any]]], static: dict[str, str]
) -> Iterator[str]:
    at = "HyperParameterTuningJobConfig"
    hyperband = mapping(mapping(config.get("StrategyConfig")).get("HyperbandStrategyConfig"))
    at_most = f"{at}.StrategyConfig.HyperbandStrategyConfig.MaxResource"
    if config.get("TrainingJobEarlyStoppingType", "Off") != "Off":
        yield (
            f"{at}.TrainingJobEarlyStoppingType: must be Off with Hyperband, which stops jobs itself, "
            f"received {config['TrainingJobEarlyStoppingType']!r}"
        )
    names = _RESOURCES if has_own_script(request) else _RESOURCES[:1]
    given = [static[name] for name in names if name in static]
    if "MaxResource" not in hyperband and not given:
        yield f"{at_most}: missing; give it, or {' or '.join(names)} in StaticHyperParameters"
    most = hyperband.get("MaxResource") or next((int(text) for text in given if text.isdecimal()), math.inf)
    if _MAX_RESOURCE < most < math.inf:
        yield f"{at_most}: must be at most {_MAX_RESOURCE:,}, received {most}"
    if hyperband.get("MinResource", 1) >= most:
        yield (
            f"{at}.StrategyConfig.HyperbandStrategyConfig.MinResource: must be below MaxResource "
            f"({most}), received {hyperband.get('MinResource', 1)}"
        )
    if any(entry.get("Name") == "epochs" for _, entry in ranges):
        yield f"{at}.ParameterRanges: epochs is Hyperband's resource and cannot be tuned as well"
