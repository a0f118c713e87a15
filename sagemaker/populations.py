"""Tuning requests whose trials are trained together, as the members of populations: what they must be and become."""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

from console import remark
from members import ALONE, Pack
from ml.errors import UserError
from ml.hyperparameters import parse_value, problems_with
from ml.metrics import METRICS
from ml.settings import SETTINGS, VARIED
from request import has_own_script, hyperparameters_of, mapping, objective_of, ranges_of, training_part
from rules import WrongRequest, refuse_wrong_types
from rules_tuning import tuning_problems

_CONFIG = "HyperParameterTuningJobConfig"
_OWN = ("population", "ranges", "points")  # what the launcher itself sets in a job's hyperparameters
_OF_A_SEARCH = ("WarmStartConfig", "Autotune")


def monitored(metric: str) -> str:
    """The validation metric by which a job would keep the network that is best by an objective; empty: none does."""
    name = metric.removeprefix("best_").removeprefix("mean_")
    return name if name in SETTINGS["monitor"].metadata["choices"] else ""


def train_together(request: dict[str, Any], size: int, *, in_one_job: bool) -> tuple[dict[str, Any], Pack]:
    """A tuning request as --pack and --in-one-job ask for it; the user is told what that changes in a search.

    Args:
        request: complete but for the check; changed here.
        size: trials of a job.
        in_one_job: whether to make a CreateTrainingJob request of it that trains all points at once.

    Returns:
        The request, and how the trials of its jobs are trained together.

    Raises:
        WrongRequest: with all that one job cannot do.
    """
    pack, lines = ALONE, list[str]()
    if in_one_job:
        request, lines = _one_job_request(request)
    elif size > 1:
        pack, lines = _pack_request(request, size)
    for line in lines:
        remark(line)
    return request, pack


def _pack_request(request: dict[str, Any], size: int) -> tuple[Pack, list[str]]:
    """Lets the jobs of a tuning request train several trials each; returns how, and lines for the user."""
    limits = request[_CONFIG].setdefault("ResourceLimits", {})
    most = limits.get("MaxNumberOfTrainingJobs", size)
    limits["MaxParallelTrainingJobs"] = max(limits.get("MaxParallelTrainingJobs", 1), min(size, most))
    line = f"each job trains up to {size} trials at once"
    if shared := [str(entry.get("Name")) for _, entry in ranges_of(request) if entry.get("Name") not in VARIED]:
        line += f"; those of one job share {', '.join(shared)}, which a population cannot vary"
    lines = [line, *_keep_the_best(request), *_left_out(request, ())]
    _use_the_same_rows(request)
    # A trial that is left over has a job of its own, which knows no halving.
    return Pack(size, hyperparameters_of(request).pop("halving", "")), lines


def pack_problems(request: dict[str, Any], pack: Pack, *, own_search: bool) -> Iterator[str]:
    """What keeps the trials of a tuning request from being trained several in a job."""
    if pack.size == 1:
        return
    if not own_search:
        yield (
            "--pack: SageMaker's search starts a job for each trial; give --in-one-job, which trains all of them as "
            "one job, or --on local or docker"
        )
    yield from _population_problems(request, "--pack")
    metric, _ = objective_of(request)
    if metric in METRICS and METRICS[metric].once and not monitored(metric):
        yield (
            f"{_CONFIG}.HyperParameterTuningJobObjective.MetricName: must be a metric of every epoch with --pack, such "
            f"as best_val_accuracy, received {metric!r}, which a job measures for its best network alone"
        )
    varied = [entry for _, entry in ranges_of(request) if entry.get("Name") in VARIED]
    if not varied:
        yield (
            f"{_CONFIG}.ParameterRanges: must have one of {', '.join(VARIED)} for --pack, in which the trials of a "
            "job differ; leave --pack out"
        )
    elif not has_own_script(request):  # what the job's own rules refuse in a population
        point = {entry["Name"]: str(entry.get("MinValue", *entry.get("Values", ())[:1])) for entry in varied}
        static = hyperparameters_of(request)
        _, of_one = problems_with(static)
        _, of_several = problems_with(pack.hyperparameters(static, [point, point]))
        at = "TrainingJobDefinition.StaticHyperParameters"
        yield from (f"{at}: {problem}" for problem in of_several if problem not in of_one)


def _one_job_request(request: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The CreateTrainingJob request that trains all points at once, and lines for the user."""
    refuse_wrong_types(request)
    if problems := [*tuning_problems(request), *_one_job_problems(request)]:
        raise WrongRequest(list(dict.fromkeys(problems)))
    lines = [*_keep_the_best(request), *_left_out(request, ("TuningJobCompletionCriteria",))]
    _use_the_same_rows(request)
    config, static = request[_CONFIG], hyperparameters_of(request)
    job = {key: value for key, value in training_part(request).items() if key != "StaticHyperParameters"}
    limits = mapping(config.get("ResourceLimits"))
    if "MaxRuntimeInSeconds" in limits:
        stopping = job.setdefault("StoppingCondition", {})
        most = stopping.get("MaxRuntimeInSeconds", math.inf)
        stopping["MaxRuntimeInSeconds"] = min(limits["MaxRuntimeInSeconds"], most)
    if config["Strategy"] == "Grid":
        ranges = [entry for _, entry in ranges_of(request)]
        names = [entry["Name"] for entry in ranges]
        values = itertools.product(*(entry["Values"] for entry in ranges))
        population = {"points": json.dumps([dict(zip(names, point, strict=True)) for point in values])}
    else:
        lines.insert(0, "the points are spread evenly over the ranges, whatever the Strategy, and trained at once")
        if str(config.get("RandomSeed", "")) not in ("", static.get("seed", str(SETTINGS["seed"].default))):
            lines.append("RandomSeed does nothing: one job draws its points by seed")
        population = {
            "population": str(limits["MaxNumberOfTrainingJobs"]),
            "ranges": json.dumps(config["ParameterRanges"], separators=(",", ":")),
        }
    made = {"TrainingJobName": request["HyperParameterTuningJobName"], **job}
    made["HyperParameters"] = static | population
    if "Tags" in request:
        made["Tags"] = request["Tags"]
    return made, lines


def _one_job_problems(request: dict[str, Any]) -> Iterator[str]:
    yield from _population_problems(request, "--in-one-job")
    for kind, entry in ranges_of(request):
        name = str(entry.get("Name"))
        if name in SETTINGS and name not in VARIED:
            yield (
                f"{_CONFIG}.ParameterRanges.{kind}.{name}: is one value for all networks of a job, which may differ in "
                f"{', '.join(VARIED)}; give --set {name}=VALUE, or leave --in-one-job out"
            )
    for name in _OF_A_SEARCH:
        if name in request:
            yield f"{name}: is for a search, and --in-one-job makes none; remove one of them"
    if "HyperParameterTuningResourceConfig" in training_part(request):
        yield (
            "TrainingJobDefinition.HyperParameterTuningResourceConfig: is for a search; with --in-one-job give the "
            "instance as ResourceConfig"
        )
    metric, _ = objective_of(request)
    if not monitored(metric):
        yield (
            f"{_CONFIG}.HyperParameterTuningJobObjective.MetricName: must be best_val_accuracy or best_val_loss with "
            f"--in-one-job, since a job keeps its best network by one of them, received {metric!r}"
        )


def _population_problems(request: dict[str, Any], option: str) -> Iterator[str]:
    """What no population can do, for either option."""
    if has_own_script(request):
        yield f"{option}: trains populations, which this project's job does and the request's own script does not"
    if mapping(request.get(_CONFIG)).get("Strategy") == "Hyperband":
        yield (
            f"{_CONFIG}.Strategy: Hyperband stops jobs one by one, which {option} leaves none of; take another "
            "strategy and --set halving=2, which drops the worse half after each of the first epochs"
        )
    for name in _OWN:
        if name in hyperparameters_of(request):
            yield f"TrainingJobDefinition.StaticHyperParameters.{name}: is set by {option}; remove one of them"


def _keep_the_best(request: dict[str, Any]) -> Iterator[str]:
    """Lets jobs keep the network that is best by the objective, unless the request says by what."""
    metric, _ = objective_of(request)
    parameters = hyperparameters_of(request)
    if "monitor" in parameters:
        return
    if monitor := monitored(metric):
        parameters["monitor"] = monitor
        yield f"a job keeps the model of its best network alone, by monitor={monitor}, as the objective asks"
    else:
        yield (
            f"a job keeps the model of its best network alone, by {SETTINGS['monitor'].default}, which need not be the "
            f"best by {metric}; --set monitor=... chooses another"
        )


def _use_the_same_rows(request: dict[str, Any]) -> None:
    """Lets all trials be trained and judged on the rows of the longest lookback, in whatever job they are."""
    for kind, entry in ranges_of(request):
        if entry.get("Name") == "lookback":
            texts = entry.get("Values", []) if kind == "CategoricalParameterRanges" else [entry.get("MaxValue")]
            with contextlib.suppress(UserError, ValueError):  # which the check tells
                longest = max(parse_value("lookback", text) for text in texts)
                hyperparameters_of(request).setdefault("longest_lookback", str(longest))


def _left_out(request: dict[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    config = request[_CONFIG]
    left = [name for name in names if config.get(name)]
    if config.get("TrainingJobEarlyStoppingType", "Off") != "Off":
        left.append("TrainingJobEarlyStoppingType")
    if left:
        instead = "; --set halving=2 drops the worse half after each of the first epochs"
        yield (
            f"networks that train together are not stopped one by one: {', '.join(left)} does nothing"
            f"{'' if 'halving' in hyperparameters_of(request) else instead}"
        )
