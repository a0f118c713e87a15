"""The rules that AWS's model does not hold: limits that its documentation words, and what the job itself needs.

Every problem is a sentence, `where: what is allowed, received what`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from aws_model import find_problems, short
from ml.errors import UserError
from request import (
    PLACEHOLDER_ACCOUNT,
    at_job,
    at_parameters,
    entries,
    host_names,
    hyperparameters_of,
    mapping,
    training_part,
)
from rules_channels import channel_problems, input_mode, output_problems
from rules_job import algorithm_problems, hyperparameter_problems, tag_problems
from rules_resources import resource_problems, stopping_problems
from rules_tuning import tuning_problems

Rule = Callable[[dict[str, Any]], Iterator[str]]  # a request's problems, each a sentence

_RULES = (
    resource_problems,
    stopping_problems,
    algorithm_problems,
    channel_problems,
    output_problems,
    hyperparameter_problems,
    tuning_problems,
    tag_problems,
)


_LONGEST = 1000  # characters of a problem


class WrongRequest(UserError):
    """A request that would be refused, with every problem found in it."""

    def __init__(self, problems: list[str]):
        self.problems = [text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..." for text in problems]
        super().__init__("; ".join(self.problems))


def check(request: dict[str, Any], *others: Rule) -> None:
    """Refuses a request that AWS, the job or the place would refuse.

    Args:
        request: complete, as it would be sent.
        *others: what else refuses requests, such as a place on its own account (`Place.problems_with`).

    Raises:
        WrongRequest: with every problem.
    """
    found = find_problems(request)
    problems = [problem.text for problem in found]
    if not any(problem.wrong_type for problem in found):  # the rules count on the types
        for rule in _RULES:
            problems += rule(request)
        for problems_with in others:
            problems += problems_with(request)
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
    job, at = training_part(request), at_job(request)
    for channel in entries(job.get("InputDataConfig")):
        yield from _channel_on_this_machine(job, channel, f"{at}InputDataConfig.{channel.get('ChannelName')}")
    algorithm, resources = mapping(job.get("AlgorithmSpecification")), mapping(job.get("ResourceConfig"))
    config = mapping(request.get("HyperParameterTuningJobConfig"))
    ranges, criteria = mapping(config.get("ParameterRanges")), mapping(config.get("TuningJobCompletionCriteria"))
    in_config = "HyperParameterTuningJobConfig"
    for where, value in (
        (f"{at}AlgorithmSpecification.ContainerEntrypoint", algorithm.get("ContainerEntrypoint")),
        (f"{at}AlgorithmSpecification.ContainerArguments", algorithm.get("ContainerArguments")),
        (f"{at}ResourceConfig.InstanceGroups", resources.get("InstanceGroups")),
        ("Autotune", request.get("Autotune")),
        (f"{in_config}.ParameterRanges.AutoParameters", ranges.get("AutoParameters")),
        (f"{in_config}.TuningJobCompletionCriteria.ConvergenceDetected", criteria.get("ConvergenceDetected")),
    ):
        if value:
            yield f"{where}: only SageMaker does it, received {short(value)}; remove it or give --on aws"


def _channel_on_this_machine(job: dict[str, Any], channel: dict[str, Any], at: str) -> Iterator[str]:
    source = mapping(mapping(channel.get("DataSource")).get("S3DataSource"))
    uri, kind, mode = source.get("S3Uri"), source.get("S3DataType"), input_mode(job, channel)
    if not str(uri).startswith(("s3://", "file:")):
        yield (
            f"{at}: must be in S3 or on this machine, received {short(uri or channel.get('DataSource'))}; "
            "other sources exist on aws alone"
        )
    elif kind != "S3Prefix" or "HubAccessConfig" in source:
        what = f"S3DataType {kind}" if kind != "S3Prefix" else "HubAccessConfig"
        yield f"{at}: {what} is read on aws alone; name the files' prefix as an S3Prefix, or give --on aws"
    elif source.get("S3DataDistributionType") == "ShardedByS3Key" and len(host_names(job)) > 1:
        yield f"{at}: only SageMaker deals the files out among hosts (ShardedByS3Key); give FullyReplicated or --on aws"
    elif mode == "Pipe":
        yield f"{at}: must be File or FastFile on this machine, received InputMode {mode!r}; or give --on aws"


def problems_on_sagemaker(request: dict[str, Any]) -> Iterator[str]:
    """What SageMaker cannot reach: KYDB folders of this machine, and the account that the files ship with."""
    job, at = training_part(request), at_job(request)
    for name in ("prices_db", "model_db"):
        if (url := str(hyperparameters_of(request).get(name, ""))).startswith("files:"):
            yield (
                f"{at_parameters(request)}.{name}: is a folder that SageMaker's instances do not have, received "
                f"{short(url)}; use s3:// or dynamodb://, or for prices --prices FILE"
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
            yield f"{at}{name}: must be your account's, received the placeholder {short(value)}; give {cure}"
