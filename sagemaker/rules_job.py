"""What AWS's documentation and the job itself say of an image, hyperparameters and tags, and AWS's model does not."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from aws_model import short
from ml.hyperparameters import problems_with
from ml.settings import SETTINGS
from request import at_job, at_parameters, entries, has_own_script, hyperparameters_of, mapping, training_part


def algorithm_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a request's image and metrics."""
    job, at = training_part(request), f"{at_job(request)}AlgorithmSpecification"
    algorithm = mapping(job.get("AlgorithmSpecification"))
    if not algorithm.get("TrainingImage"):
        yield f"{at}.TrainingImage: missing; give --image, such as the one `push` prints"
    if "AlgorithmName" in algorithm:
        yield (
            f"{at}.AlgorithmName: cannot stand beside TrainingImage, which this launcher's jobs have, received "
            f"{short(algorithm['AlgorithmName'])}; remove it"
        )
    registry = mapping(algorithm.get("TrainingImageConfig"))
    private = registry.get("TrainingRepositoryAccessMode") == "Vpc"
    if private and "VpcConfig" not in job:
        yield f"{at}.TrainingImageConfig: a private registry is reached from a VPC; give --subnet and --security-group"
    if "TrainingRepositoryAuthConfig" in registry and not private:
        yield f"{at}.TrainingImageConfig.TrainingRepositoryAuthConfig: is for TrainingRepositoryAccessMode Vpc alone"
    for index, definition in enumerate(entries(algorithm.get("MetricDefinitions"))):
        where, regex = f"{at}.MetricDefinitions[{index}].Regex", definition.get("Regex", "()")
        try:
            if not re.compile(regex).groups:
                yield f"{where}: must have a group for the value, received {short(regex)}"
        except re.error as error:
            yield f"{where}: is no regular expression ({error}), received {short(regex)}"
    if "ServerlessJobConfig" in job:
        yield "ServerlessJobConfig: is for models that SageMaker offers, and this job brings its own image; remove it"


def tag_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a request's tags, and with other names that must differ."""
    keys = [str(tag.get("Key")) for tag in entries(request.get("Tags"))]
    for key, times in Counter(keys).items():
        if times > 1:
            yield f"Tags: keys must differ, received {key!r} {times} times"
        if key.lower().startswith("aws:"):
            yield f"Tags: keys that begin with aws: are AWS's own, received {key!r}"
    hook = mapping(request.get("DebugHookConfig"))
    for where, named, key in (
        ("DebugHookConfig.CollectionConfigurations", hook.get("CollectionConfigurations"), "CollectionName"),
        ("DebugRuleConfigurations", request.get("DebugRuleConfigurations"), "RuleConfigurationName"),
        ("ProfilerRuleConfigurations", request.get("ProfilerRuleConfigurations"), "RuleConfigurationName"),
    ):
        for name, times in Counter(str(entry.get(key)) for entry in entries(named)).items():
            if times > 1:
                yield f"{where}: names must differ, received {name!r} {times} times"


def hyperparameter_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the values of our job's settings, alone and beside the request's channels and network."""
    if has_own_script(request):
        return  # it takes what it likes
    job, at, where = training_part(request), at_job(request), at_parameters(request)
    values, problems = problems_with(hyperparameters_of(request))
    for problem in problems:
        yield f"{where}: {problem}"
    channel = values.get("prices_channel", SETTINGS["prices_channel"].default)
    channels = [str(entry.get("ChannelName")) for entry in entries(job.get("InputDataConfig"))]
    if values.get("prices_db") and channel in channels:
        yield (
            f"{at}InputDataConfig.{channel}: would not be read, since {where}.prices_db is "
            f"{values['prices_db']!r}; remove one of them"
        )
    if not values.get("prices_db") and channel not in channels:
        yield (
            f"{at}InputDataConfig: must have the channel {channel!r} with the price history where "
            f"{where} has no prices_db, received {', '.join(channels) or 'no channel'}; give --prices FILE, "
            f"--channel {channel}=s3://... or --set prices_db=URL"
        )
    if job.get("EnableNetworkIsolation"):
        for name in ("prices_db", "model_db"):
            if values.get(name) and not values[name].startswith("files://"):
                yield (
                    f"{where}.{name}: cannot be reached with EnableNetworkIsolation: true, received "
                    f"{values[name]!r}; read prices from a channel and `publish` the model afterwards"
                )
