"""What AWS's documentation says of a job's channels and S3 places, and its model does not."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from aws_model import short
from request import at_job, bucket_name, entries, has_own_script, host_names, mapping, training_part


def input_mode(job: dict[str, Any], channel: dict[str, Any]) -> str:
    """How a channel's data reach the job: File, FastFile or Pipe."""
    return str(channel.get("InputMode") or mapping(job.get("AlgorithmSpecification")).get("TrainingInputMode"))


def channel_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a request's InputDataConfig."""
    job, at = training_part(request), f"{at_job(request)}InputDataConfig"
    channels = entries(job.get("InputDataConfig"))
    names = Counter(str(channel.get("ChannelName")) for channel in channels)
    for name, times in names.items():
        if times > 1:
            yield f"{at}: channel names must differ, received {name!r} {times} times"
    for channel in channels:
        yield from _one_channel(request, channel, f"{at}.{channel.get('ChannelName')}")
    modes = {input_mode(job, channel) for channel in channels} or {input_mode(job, {})}
    if "Pipe" in modes and not has_own_script(request):
        yield (
            f"{at_job(request)}AlgorithmSpecification.TrainingInputMode: must be File or FastFile, since the job reads "
            "files, received 'Pipe' there or as a channel's InputMode"
        )


def _one_channel(request: dict[str, Any], channel: dict[str, Any], at: str) -> Iterator[str]:
    job = training_part(request)
    mode = input_mode(job, channel)
    sources = mapping(channel.get("DataSource"))
    if len(sources) != 1:
        yield f"{at}.DataSource: must name one source, received {', '.join(sources) or 'none'}"
    for name, allowed in (("CompressionType", "Gzip"), ("RecordWrapperType", "RecordIO")):
        if channel.get(name) == allowed and mode != "Pipe":
            yield f"{at}.{name}: {allowed} is for InputMode Pipe alone, received it with {mode}; remove it"
    if "FileSystemDataSource" in sources:
        if "VpcConfig" not in job:
            yield f"{at}: a file system is reached from inside its VPC; give --subnet and --security-group"
        if mode != "File":
            yield f"{at}.InputMode: must be File for a file system, received {mode!r}"
    source = mapping(sources.get("S3DataSource"))
    kind = source.get("S3DataType")
    if kind == "AugmentedManifestFile" and mode != "Pipe":
        yield f"{at}.S3DataType: AugmentedManifestFile is for InputMode Pipe alone, received it with {mode}"
    if kind == "Converse" and not has_own_script(request):
        yield f"{at}.S3DataType: must be S3Prefix or ManifestFile, since prices are no conversations, received {kind!r}"
    groups = {
        group.get("InstanceGroupName") for group in entries(mapping(job.get("ResourceConfig")).get("InstanceGroups"))
    }
    for name in source.get("InstanceGroupNames", []):
        if name not in groups:
            yield f"{at}.InstanceGroupNames: must be names of ResourceConfig.InstanceGroups, received {name!r}"
    if not has_own_script(request) and len(host_names(job)) > 1:
        yield from _replication_problems(source, groups, at)
    if not str(source.get("S3Uri", "file:")).startswith("file:"):
        yield from _bucket_problems(source["S3Uri"], f"{at}.S3Uri")


def _replication_problems(source: dict[str, Any], groups: set[Any], at: str) -> Iterator[str]:
    """What keeps a channel's files from some of several hosts."""
    if source.get("S3DataDistributionType", "FullyReplicated") != "FullyReplicated":
        yield (
            f"{at}.S3DataDistributionType: must be FullyReplicated, since every host reads the whole history, received "
            f"{short(source['S3DataDistributionType'])}"
        )
    if missing := sorted(groups - set(source.get("InstanceGroupNames", groups))):
        yield f"{at}.InstanceGroupNames: must name every group, since every host reads it; lacks {', '.join(missing)}"


def output_problems(request: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the places that a job writes to."""
    job, at = training_part(request), at_job(request)
    for section, key in (
        ("OutputDataConfig", "S3OutputPath"),
        ("CheckpointConfig", "S3Uri"),
        ("TensorBoardOutputConfig", "S3OutputPath"),
        ("DebugHookConfig", "S3OutputPath"),
        ("ProfilerConfig", "S3OutputPath"),
    ):
        uri = mapping(job.get(section)).get(key)
        if not isinstance(uri, str):
            continue
        yield from _bucket_problems(uri, f"{at}{section}.{key}")
        if not uri.startswith("s3://"):
            yield f"{at}{section}.{key}: must begin with s3://, received {short(uri)}"
        elif "//" in uri.removeprefix("s3://"):
            yield f"{at}{section}.{key}: must have no empty folder in its path, received {short(uri)}"
    results = mapping(job.get("OutputDataConfig"))
    bucket = str(results.get("S3OutputPath", "")).removeprefix("s3://").partition("/")[0]
    if results.get("KmsKeyId") and bucket.endswith("--x-s3"):
        yield f"{at}OutputDataConfig.KmsKeyId: S3 Express One Zone takes no KMS key, received one for {bucket}"


def _bucket_problems(uri: str, where: str) -> Iterator[str]:
    bucket = uri.partition("://")[2].partition("/")[0]
    if bucket.startswith("arn:"):  # an access point
        return
    try:
        bucket_name(bucket)
    except ValueError as error:
        yield f"{where}: {error}, in {short(uri)}"
