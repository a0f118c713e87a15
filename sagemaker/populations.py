"""Tuning requests whose trials are trained together, as the members of populations: what they must be and become."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

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


def pack_request(request: dict[str, Any], pack: int) -> list[str]:
    """Makes a tuning request one whose jobs train several trials each.

    Args:
        request: a tuning request, changed here: as many trials at a time as a pack has, and `monitor`.
        pack: trials of a job.

    Returns:
        Lines for the user: what is otherwise than with a job for each trial.
    """
    limits = request[_CONFIG].setdefault("ResourceLimits", {})
    most = limits.get("MaxNumberOfTrainingJobs", pack)
    limits["MaxParallelTrainingJobs"] = max(limits.get("MaxParallelTrainingJobs", 1), min(pack, most))
    shared = [str(entry.get("Name")) for _, entry in ranges_of(request) if entry.get("Name") not in VARIED]
    lines = [f"each job trains up to {pack} trials at once"]
    if shared:
        lines[0] += f"; those of one job share {', '.join(shared)}, which a population cannot vary"
    return [*lines, *_keep_the_best(request), *_left_out(request, ())]


def pack_problems(request: dict[str, Any], pack: int, *, own_search: bool) -> Iterator[str]:
    """What keeps the trials of a tuning request from being trained several in a job."""
    if pack == 1:
        return
    if not own_search:
        yield (
            "--pack: SageMaker's search starts a job for each trial; give --in-one-job, which trains all of them as "
            "one job, or --on local or docker"
        )
    yield from _population_problems(request, "--pack")
    if not any(entry.get("Name") in VARIED for _, entry in ranges_of(request)):
        yield (
            f"{_CONFIG}.ParameterRanges: must have one of {', '.join(VARIED)} for --pack, in which the trials of a "
            "job differ; leave --pack out"
        )


def one_job_request(request: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The CreateTrainingJob request that trains all points of a tuning request as one population.

    Args:
        request: complete but for the check.

    Returns:
        The request, and lines for the user: what is otherwise than in a search.

    Raises:
        WrongRequest: with all that one job cannot do.
    """
    refuse_wrong_types(request)
    if problems := [*tuning_problems(request), *_one_job_problems(request)]:
        raise WrongRequest(list(dict.fromkeys(problems)))
    lines = [*_keep_the_best(request), *_left_out(request, ("TuningJobCompletionCriteria",))]
    config = request[_CONFIG]
    job = {key: value for key, value in training_part(request).items() if key != "StaticHyperParameters"}
    limits = mapping(config.get("ResourceLimits"))
    if "MaxRuntimeInSeconds" in limits:
        stopping = job.setdefault("StoppingCondition", {})
        stopping["MaxRuntimeInSeconds"] = min(limits["MaxRuntimeInSeconds"], stopping["MaxRuntimeInSeconds"])
    if config["Strategy"] == "Grid":
        ranges = [entry for _, entry in ranges_of(request)]
        names = [entry["Name"] for entry in ranges]
        values = itertools.product(*(entry["Values"] for entry in ranges))
        population = {"points": json.dumps([dict(zip(names, point, strict=True)) for point in values])}
    else:
        population = {
            "population": str(limits["MaxNumberOfTrainingJobs"]),
            "ranges": json.dumps(config["ParameterRanges"], separators=(",", ":")),
        }
    made = {"TrainingJobName": request["HyperParameterTuningJobName"], **job}
    made["HyperParameters"] = hyperparameters_of(request) | population
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
