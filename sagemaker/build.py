"""From a request's file and the command line's options to a complete request."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from console import remark
from instances import has_local_disk, instance_types
from members import population_of, settings_of_member
from ml.errors import UserError
from ml.metrics import metric_definitions
from ml.settings import SETTINGS
from place import inputs
from place.base import Place
from place.find import find_job
from place.outcome import read_metrics
from request import (
    JOB_PARTS,
    PLACEHOLDER_ACCOUNT,
    TRAINING,
    TUNING,
    file_uri,
    has_own_script,
    hyperparameters_of,
    name_key,
    name_of,
    operation_of,
    set_hyperparameter,
    training_part,
)
from rules import refuse_wrong_types
from yaml_files import read_yaml

_SAMPLE_ROWS = {TRAINING: 100_000, TUNING: 30_000}


def build_training_request(path: Path, options: dict[str, Any], place: Place) -> dict[str, Any]:
    """The CreateTrainingJob request in a file, with the options' overrides, ready to be checked.

    Args:
        path: the request's file.
        options: of the command, by their names.
        place: where the job will run.

    Raises:
        UserError: the file or a channel's path is wrong.
    """
    request = _member_request(options) if options.get("member") else read_request(path, TRAINING)
    named = set(hyperparameters_of(request))
    complete_request(request, options, place)
    _leave_out_shipped_settings(request, named, options, path)
    return request


def _member_request(options: dict[str, Any]) -> dict[str, Any]:
    """The request that trains a member of a population by itself, on the data and in the image of its job.

    Raises:
        UserError: there is no such member.
    """
    name = options["member"]
    job = find_job(name, options["runs"], options["region"])
    if job.tuning or job.member is None:
        raise UserError(f"{name} is a {job.kind} of its own; --member takes a member of a population, such as JOB-0")
    record = job.describe()
    _, members = population_of(record, read_metrics(job.place.collect(job.name) / "model"))
    if job.member >= len(members):
        raise UserError(f"the settings of {name} are not known before {job.name} ends")
    request = {key: record[key] for key in JOB_PARTS if key in record}
    request["StoppingCondition"].pop("MaxWaitTimeInSeconds", None)  # of spot instances, which --spot asks for
    parameters = settings_of_member(record.get("HyperParameters", {}), members, job.member)
    return {"TrainingJobName": name, "HyperParameters": parameters, **request}


def build_tuning_request(path: Path, options: dict[str, Any], place: Place) -> tuple[dict[str, Any], str]:
    """The CreateHyperParameterTuningJob request in a file, as `build_training_request`.

    Returns:
        The request, and the KYDB URL that its winner is published to: trials publish nothing, so it is taken out.
    """
    request = read_request(path, TUNING)
    named = set(hyperparameters_of(request))
    _set_search_options(request, options)
    complete_request(request, options, place)
    _leave_out_shipped_settings(request, named, options, path)
    return request, hyperparameters_of(request).pop("model_db", "")


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
    request = read_yaml(path, "request")
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
    refuse_wrong_types(request)
    return request


def as_text(value: Any) -> str:
    """A YAML scalar as SageMaker takes it: every value is text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def add_metric_definitions(request: dict[str, Any]) -> None:
    """Completes a request with the regexes of the metrics that the job prints; a user's own script prints its own."""
    algorithm = training_part(request).setdefault("AlgorithmSpecification", {})
    if not has_own_script(request) or "MetricDefinitions" not in algorithm:
        algorithm["MetricDefinitions"] = metric_definitions()


def complete_request(request: dict[str, Any], options: dict[str, Any], place: Place) -> None:
    """Fills in a request: the name, the overrides, the account's facts, the prices and the metric definitions."""
    key = name_key(request)
    stamp = f"{datetime.now(timezone.utc):%y%m%d-%H%M%S}"
    request[key] = options["name"] or f"{request.get(key, 'position-trainer')}-{stamp}"
    _set_resources(request, options)
    if options["spot"]:
        _add_spot_facts(request)
    _set_fences(request, options)
    algorithm = training_part(request)["AlgorithmSpecification"]
    if place.image and PLACEHOLDER_ACCOUNT in str(algorithm.get("TrainingImage")):
        algorithm["TrainingImage"] = place.image
    for name, value in options["settings"].items():
        set_hyperparameter(request, name, value)
    channels = {name: [path] for name, path in options["channels"].items()}
    if options["prices"]:
        channels["train"] = list(options["prices"])
    for channel, paths in channels.items():
        _set_channel(training_part(request), channel, paths)
    add_metric_definitions(request)
    if place.has_sample_market:
        _use_sample_market(request, options)


def _set_resources(request: dict[str, Any], options: dict[str, Any]) -> None:
    """Puts the account's facts and the machine into their places in the request."""
    job = training_part(request)
    algorithm, resources, stopping, results = (
        job.setdefault(key, {})
        for key in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition", "OutputDataConfig")
    )
    for part, key, value in (
        (job, "RoleArn", options["role"]),
        (algorithm, "TrainingImage", options["image"]),
        (resources, "InstanceType", options["instance_type"]),
        (resources, "InstanceCount", options["instance_count"]),
        (resources, "VolumeSizeInGB", options["volume_size"]),
        (resources, "KeepAlivePeriodInSeconds", options["keep_alive"]),
        (results, "KmsKeyId", options["kms_key"]),
        (stopping, "MaxRuntimeInSeconds", options["max_runtime"]),
        (stopping, "MaxWaitTimeInSeconds", options["max_wait"]),
        (job, "EnableNetworkIsolation", options["network_isolation"]),
        (job, "EnableManagedSpotTraining", options["spot"]),
    ):
        if value is not None and value is not False:  # 0 is a value
            part[key] = value
    if options["kms_key"]:
        if with_disk := [name for name in instance_types(job) if has_local_disk(name)]:
            remark(f"--kms-key encrypts the results alone: the disks of {with_disk[0]} are encrypted by its hardware")
        else:
            resources["VolumeKmsKeyId"] = options["kms_key"]
    if options["bucket"]:
        results["S3OutputPath"] = f"s3://{options['bucket']}/position-trainer/jobs"


def _add_spot_facts(request: dict[str, Any]) -> None:
    job = training_part(request)
    stopping, results = job["StoppingCondition"], job["OutputDataConfig"]
    stopping.setdefault("MaxWaitTimeInSeconds", 2 * stopping.get("MaxRuntimeInSeconds", 0))
    # A prefix for each job: SageMaker brings all that is under it to the instance, and mirrors deletions.
    prefix = results.get("S3OutputPath", "").removesuffix("/jobs")
    job.setdefault("CheckpointConfig", {"S3Uri": f"{prefix}/checkpoints/{name_of(request)}"})


def _set_fences(request: dict[str, Any], options: dict[str, Any]) -> None:
    """Puts the network, the environment and the tags into their places in the request."""
    job = training_part(request)
    if options["subnets"] or options["security_groups"]:
        job["VpcConfig"] = {"Subnets": list(options["subnets"]), "SecurityGroupIds": list(options["security_groups"])}
    if options["environment"]:
        job["Environment"] = job.get("Environment", {}) | options["environment"]
    if options["tags"]:
        others = [tag for tag in request.get("Tags", []) if tag.get("Key") not in options["tags"]]
        request["Tags"] = others + [{"Key": key, "Value": value} for key, value in options["tags"].items()]


def _leave_out_shipped_settings(request: dict[str, Any], named: set[str], options: dict[str, Any], path: Path) -> None:
    """Takes out what a shipped request sets for our program: a user's own script gets what its user gave.

    Args:
        request: with the options' overrides.
        named: the hyperparameters in the file.
        options: of the command, by their names.
        path: the file. A user's own may be a copy of the shipped one, with its line for the preset.
    """
    if not has_own_script(request):
        return
    parameters = hyperparameters_of(request)
    if path.resolve().parent != Path(__file__).resolve().parent:
        named = {"preset"} if parameters.get("preset") == SETTINGS["preset"].default else set()
    for name in named - options["settings"].keys():
        del parameters[name]


def _set_channel(job: dict[str, Any], channel: str, paths: list[str]) -> None:
    """Adds a channel to a job, or replaces the one of that name; paths of this machine become a file:// URI."""
    if remote := [path for path in paths if path.startswith("s3://")]:
        if len(paths) > 1:
            raise UserError(
                f"channel {channel}: must be one s3:// prefix or files of this machine, received {len(paths)}"
            )
        uri = remote[0]
    else:
        for path in paths:
            if not Path(path).exists():
                raise UserError(f"channel {channel}: there is no file or folder {path}")
        uri = file_uri(list(map(Path, paths)))
    entry = {
        "ChannelName": channel,
        "DataSource": {
            "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
        },
    }
    others = [other for other in job.get("InputDataConfig", []) if other.get("ChannelName") != channel]
    job["InputDataConfig"] = [*others, entry]


def _use_sample_market(request: dict[str, Any], options: dict[str, Any]) -> None:
    """Points a request that names no prices to a simulated market."""
    rows = options["sample_rows"] or _SAMPLE_ROWS[operation_of(request)]
    parameters = hyperparameters_of(request)
    if "prices_db" in parameters or training_part(request).get("InputDataConfig"):
        return
    count = options.get("sample_instruments", 1)
    if has_own_script(request) and options["sample_rows"] is None and count == 1:  # which gets only what was given
        return
    url, key = inputs.sample_market(options["runs"], rows, count, write=not options["dry_run"])
    what = (
        f"{count:,} simulated markets of {rows:,} minutes each stand"
        if count > 1
        else f"a simulated market of {rows:,} minutes stands"
    )
    remark(f"no prices were named: {what} in ({url} {key})")
    set_hyperparameter(request, "prices_db", url)
    set_hyperparameter(request, "prices_key", key)
    if "model_db" not in parameters:
        set_hyperparameter(request, "model_db", url)
        name = "sample_market" if count == 1 else f"sample_{count}_markets"
        parameters.setdefault("model_key", f"/ml/models/{name}_{rows}_model.h5")


def _set_search_options(request: dict[str, Any], options: dict[str, Any]) -> None:
    """Puts the options of a search into their places in a tuning request."""
    config = request["HyperParameterTuningJobConfig"]
    limits = {"MaxNumberOfTrainingJobs": options["max_jobs"], "MaxParallelTrainingJobs": options["max_parallel"]}
    config.setdefault("ResourceLimits", {}).update({key: value for key, value in limits.items() if value is not None})
    if options["strategy"]:
        config["Strategy"] = options["strategy"]
    most = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {}).get("MaxResource")
    if most and not has_own_script(request):  # the resource of our jobs
        hyperparameters_of(request).setdefault("epochs", str(most))
    if options["parents"]:
        request["WarmStartConfig"] = {
            "WarmStartType": options["warm_start_type"] or "IdenticalDataAndAlgorithm",
            "ParentHyperParameterTuningJobs": [
                {"HyperParameterTuningJobName": parent} for parent in options["parents"]
            ],
        }
