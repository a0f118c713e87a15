"""What AWS's documentation says of instances, volumes, spot training and time limits, and its model does not."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from instances import has_local_disk, instance_types, is_of_ultraserver
from request import at_job, entries, has_own_script, mapping, training_part

_MAX_RUNTIME_SECONDS = 28 * 24 * 3600


def resource_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a request's ResourceConfig."""
    job = training_part(request)
    at = f"{at_job(request)}ResourceConfig"
    resources = mapping(job.get("ResourceConfig"))
    if "HyperParameterTuningResourceConfig" in job:
        yield (
            f"{at_job(request)}HyperParameterTuningResourceConfig: this launcher reads ResourceConfig; "
            "give InstanceType, InstanceCount and VolumeSizeInGB there"
        )
        return
    yield from _instance_problems(resources, at)
    yield from _preference_problems(job, resources, at)
    yield from _count_problems(request, resources, at)
    yield from _volume_problems(job, resources, at)
    for name in ("SelectedInstanceType", "SelectedInstanceCount"):
        if name in resources:
            yield f"{at}.{name}: SageMaker answers it and takes it from nobody, received {resources[name]!r}; remove it"


def _instance_problems(resources: dict[str, Any], at: str) -> Iterator[str]:
    groups = entries(resources.get("InstanceGroups"))
    kind, count = resources.get("InstanceType"), resources.get("InstanceCount")
    if groups and (kind or count is not None):
        yield (
            f"{at}.InstanceGroups: cannot stand beside InstanceType and InstanceCount, received "
            f"{kind or 'no type'} and {count}; each group has its own"
        )
    if not (kind or groups or resources.get("InstancePreferences")):
        yield f"{at}.InstanceType: missing; give --instance-type, such as ml.c7i.4xlarge"
    names = Counter(str(group.get("InstanceGroupName")) for group in groups)
    for name, times in names.items():
        if times > 1:
            yield f"{at}.InstanceGroups: names must differ, received {name!r} {times} times"
    warm = resources.get("KeepAlivePeriodInSeconds")
    if warm and groups:
        yield f"{at}.KeepAlivePeriodInSeconds: InstanceGroups cannot be kept warm, received {warm}; remove it"
    if "InstancePlacementConfig" in resources and not is_of_ultraserver(str(kind)):
        yield f"{at}.InstancePlacementConfig: only instances of UltraServers have it, received {kind}; remove it"


def _preference_problems(job: dict[str, Any], resources: dict[str, Any], at: str) -> Iterator[str]:
    preferences = entries(resources.get("InstancePreferences"))
    if not preferences:
        return
    others = [name for name in ("InstanceType", "InstanceGroups", "InstancePlacementConfig") if resources.get(name)] + [
        "EnableManagedSpotTraining"
    ] * (job.get("EnableManagedSpotTraining") is True)
    if others:
        yield f"{at}.InstancePreferences: cannot stand beside {', '.join(others)}; keep one of them"
    types = Counter(str(preference.get("InstanceType")) for preference in preferences)
    for name, times in types.items():
        if times > 1:
            yield f"{at}.InstancePreferences: a type may come once, received {name} {times} times"
    counted = sum("InstanceCount" in preference for preference in preferences)
    if counted not in (0, len(preferences)) or bool(counted) == ("InstanceCount" in resources):
        yield (
            f"{at}.InstancePreferences: InstanceCount must stand in each of them or in ResourceConfig alone, received "
            f"it in {counted} of {len(preferences)} and {'' if 'InstanceCount' in resources else 'not '}in "
            "ResourceConfig"
        )


def _count_problems(request: dict[str, Any], resources: dict[str, Any], at: str) -> Iterator[str]:
    job = training_part(request)
    if resources.get("InstanceType") and "InstanceCount" not in resources:
        yield f"{at}.InstanceCount: missing; it is required beside InstanceType"
    choices = entries(resources.get("InstancePreferences"))
    counts = [entry["InstanceCount"] for entry in (resources, *choices) if isinstance(entry.get("InstanceCount"), int)]
    groups = [group.get("InstanceCount", 0) for group in entries(resources.get("InstanceGroups"))]
    kinds = list(dict.fromkeys(instance_types(job))) if groups else []
    if len(kinds) > 1 and not has_own_script(request):
        yield (
            f"{at}.InstanceGroups: must all have one InstanceType, since the hosts of a job work in step, received "
            f"{', '.join(kinds)}; give InstanceType and InstanceCount instead"
        )
    if any(count < 1 for count in counts + groups):
        yield f"{at}.InstanceCount: must be at least 1, received 0"


def _volume_problems(job: dict[str, Any], resources: dict[str, Any], at: str) -> Iterator[str]:
    types = instance_types(job)
    with_disk = [name for name in types if has_local_disk(name)]
    if types and not with_disk and not resources.get("VolumeSizeInGB"):
        yield (
            f"{at}.VolumeSizeInGB: must be at least 1 for {types[0]}, which has no disk of its own, received "
            f"{resources.get('VolumeSizeInGB', 'none')}; give --volume-size"
        )
    if with_disk and resources.get("VolumeKmsKeyId"):
        yield (
            f"{at}.VolumeKmsKeyId: {with_disk[0]} has disks of its own, which its hardware encrypts, received "
            f"{resources['VolumeKmsKeyId']!r}; remove it (--kms-key then encrypts the results alone)"
        )


def stopping_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a request's time limits, spot training's among them."""
    job = training_part(request)
    stopping = mapping(job.get("StoppingCondition"))
    runtime, wait = stopping.get("MaxRuntimeInSeconds"), stopping.get("MaxWaitTimeInSeconds")
    at = f"{at_job(request)}StoppingCondition"
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
            f"{at_job(request)}ResourceConfig.KeepAlivePeriodInSeconds: a spot instance cannot be kept warm, received "
            f"{warm}; remove it or --spot"
        )
