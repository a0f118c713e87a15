"""The place called aws: SageMaker itself, its logs in CloudWatch, its results in S3, images in ECR."""

import base64
import contextlib
import itertools
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import boto3.exceptions
import botocore.config
import botocore.exceptions

import rules
from account.doctor import WRONG, examined, told
from archive import unpack
from instances import instance_types
from members import ALONE, Pack
from ml.errors import UserError
from place import cost, inputs, warm_start
from place.base import FINAL, Listing, NoSuchJob, Upload
from request import (
    FIRST_HOST,
    TUNING,
    host_names,
    name_of,
    operation_of,
    s3_sources,
    split_s3,
    training_part,
)

_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_LISTED = 50
_PREFIX = "position-trainer"


def channels_in_s3(request: dict[str, Any], name: str) -> list[Upload]:
    """Points the file:// channels of a request to where their files will be in S3.

    The prefix is one that no other start has, so that two never mix their files, whatever their names.

    Returns:
        What is to be uploaded.

    Raises:
        UserError: there is no such file or folder, or it is empty.
    """
    uploads: list[Upload] = []
    results = training_part(request).get("OutputDataConfig", {})
    prefix = f"{results.get('S3OutputPath', '').rstrip('/').removesuffix('/jobs')}/inputs/{name}-{secrets.token_hex(4)}"
    for channel, source in s3_sources(request).items():
        if source["S3Uri"].startswith("file://"):
            files = inputs.files_at(source["S3Uri"])
            source["S3Uri"] = f"{prefix}/{channel}/"
            key = results.get("KmsKeyId", "")
            uploads += [Upload(file.path, source["S3Uri"] + file.name, key) for file in files]
    return uploads


class _NotThere(UserError):
    """S3 has no such object."""


class AwsPlace:
    """Jobs on SageMaker.

    Args:
        runs: the folder that results are collected into.
        region: AWS region; None: the one configured.
        poll_seconds: between two looks at a job.
    """

    name = "aws"
    interrupt_stops_job = False
    has_sample_market = False
    own_search = False
    image: str | None = None

    def __init__(self, runs: Path, region: str | None = None, poll_seconds: float = 10):
        self.runs = runs.resolve()
        self.poll_seconds = poll_seconds
        self._session = boto3.Session(region_name=region)
        self._clients = dict[str, Any]()

    @property
    def region(self) -> str:
        """The AWS region.

        Raises:
            UserError: none is known; asked for only here, so that a request can be checked without.
        """
        if not self._session.region_name:
            raise UserError("no AWS region is known; give --region or set AWS_REGION")
        return self._session.region_name

    def client(self, service: str) -> Any:
        """A client that waits and tries again where AWS throttles; for prices one that gives up soon."""
        if service not in self._clients:
            if service == "pricing":
                region, config = cost.REGION, cost.IMPATIENT
            else:
                region = self.region
                config = botocore.config.Config(retries={"mode": "adaptive", "max_attempts": 10})
            self._clients[service] = self._session.client(service, region, config=config)
        return self._clients[service]

    def folder(self, name: str) -> Path:
        return self.runs / name

    def prepare(self, request: dict[str, Any]) -> list[Upload]:
        return channels_in_s3(request, name_of(request))

    def problems_with(self, request: dict[str, Any]) -> Iterator[str]:
        return rules.problems_on_sagemaker(request)

    def examine(self, request: dict[str, Any]) -> None:
        findings = [finding for finding in examined(self, request, cheap=True) if finding.state == WRONG]
        if findings:
            raise rules.WrongRequest([told(finding) for finding in findings])

    def estimate(self, request: dict[str, Any]) -> str:
        return cost.estimate(request, self._hourly_price(training_part(request)))

    def bill(self, record: dict[str, Any]) -> str:
        return cost.bill(record, self._hourly_price(record)) if "BillableTimeInSeconds" in record else ""

    def _hourly_price(self, job: dict[str, Any]) -> float | None:
        """USD an hour of a job's instances, as far as AWS tells it to these credentials."""
        types, region = set(instance_types(job)), self.region
        if len(types) != 1:  # SageMaker is to choose one, or the hosts differ
            return None
        price = cost.hourly_price(lambda: self.client("pricing"), types.pop(), region)
        return None if price is None else price * len(host_names(job))

    def upload(self, uploads: list[Upload]) -> None:
        """Uploads files of this machine to S3."""
        for path, uri, kms_key in uploads:
            bucket, key = split_s3(uri)
            extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
            try:
                self.client("s3").upload_file(str(path), bucket, key, ExtraArgs=extra)
            except (boto3.exceptions.Boto3Error, botocore.exceptions.ClientError, OSError) as error:
                raise UserError(f"{path} cannot be uploaded to {uri}: {error}") from None

    def preflight(self, request: dict[str, Any]) -> list[str]:
        tuning = operation_of(request) == TUNING
        name = name_of(request)
        with contextlib.suppress(NoSuchJob):
            (self.describe_tuning if tuning else self.describe)(name)
            kind = "tuning job" if tuning else "job"
            raise UserError(f"there is a {kind} {name} already on SageMaker in {self.region}; choose another --name")
        parents = request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        return [
            line for parent in parents for line in self._differences(request, parent["HyperParameterTuningJobName"])
        ]

    def _differences(self, request: dict[str, Any], parent: str) -> list[str]:
        """Lines on what a tuning job to learn from has otherwise, as far as its record says it."""
        record = self.describe_tuning(parent)
        found = [
            f"warm start from {parent}: {difference}"
            for difference in (
                *warm_start.differing_settings(request, record),
                *warm_start.differing_channels(request, record),
            )
        ]
        if found and request["WarmStartConfig"].get("WarmStartType") == "IdenticalDataAndAlgorithm":
            found.append(
                "SageMaker takes IdenticalDataAndAlgorithm for the same data and image only; "
                "--warm-start-type TransferLearning is for others"
            )
        return found

    # Training jobs

    def start(self, request: dict[str, Any]) -> str:
        """Starts a training job and returns its name."""
        self.client("sagemaker").create_training_job(**request)
        return request["TrainingJobName"]

    def describe(self, name: str) -> dict[str, Any]:
        """DescribeTrainingJob.

        Raises:
            NoSuchJob: there is none.
        """
        return self._describe("describe_training_job", "training job", TrainingJobName=name)

    def _describe(self, operation: str, what: str, **name: str) -> dict[str, Any]:
        try:
            answer = getattr(self.client("sagemaker"), operation)(**name)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in (
                "ValidationException",
                "ResourceNotFound",
                "ResourceNotFoundException",
            ):
                raise
            raise NoSuchJob(
                f"there is no {what} {next(iter(name.values()))} in {self.region}; `list --on aws` "
                "shows those there are"
            ) from None
        answer.pop("ResponseMetadata", None)
        return answer

    def lines(self, name: str, *, follow: bool, host: str = FIRST_HOST) -> Iterator[str]:
        """The lines of a job's log on a host, changes of status told; with `follow`, until the job ends."""
        tokens = dict[str, str]()
        shown = 0
        while True:
            record = self.describe(name)
            transitions = record.get("SecondaryStatusTransitions", [])
            for transition in transitions[shown:] if follow else []:
                yield f"{transition['Status']}: {transition.get('StatusMessage', '')}".rstrip(": ")
            shown = len(transitions)
            ended = record["TrainingJobStatus"] in FINAL
            if ended and follow:
                time.sleep(min(self.poll_seconds, 2))  # the last lines arrive a little after the status
            yield from self._new_lines(f"{name}/{host}-", tokens)
            if ended or not follow:
                return
            time.sleep(self.poll_seconds)

    def _new_lines(self, prefix: str, tokens: dict[str, str]) -> Iterator[str]:
        """Lines of log streams that were not yet read; `tokens` holds, for each stream, how far it was."""
        logs = self.client("logs")
        try:
            pages = logs.get_paginator("describe_log_streams").paginate(
                logGroupName=_LOG_GROUP, logStreamNamePrefix=prefix
            )
            streams = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except logs.exceptions.ResourceNotFoundException:  # the account's first job has not logged yet
            return
        for stream in streams:
            while True:
                at = {"nextToken": tokens[stream]} if stream in tokens else {}
                page = logs.get_log_events(logGroupName=_LOG_GROUP, logStreamName=stream, startFromHead=True, **at)
                yield from (event["message"] for event in page["events"])
                if page["nextForwardToken"] == tokens.get(stream):
                    break
                tokens[stream] = page["nextForwardToken"]

    def stop(self, name: str) -> None:
        """Asks a training job to end; it has two minutes to do so."""
        self.client("sagemaker").stop_training_job(TrainingJobName=name)

    def collect(self, name: str) -> Path:
        """Brings what a job left in S3 into the same folders as on this machine."""
        record = self.describe(name)
        folder = self.folder(name)
        model = record.get("ModelArtifacts", {}).get("S3ModelArtifacts")
        if model and not (folder / "model").exists():
            self._fetch(model, folder / "model")
        results = record["OutputDataConfig"]
        output = f"{results['S3OutputPath'].rstrip('/')}/{name}/output/"
        output += "data/" if results.get("CompressionType") == "NONE" else "output.tar.gz"
        if not (folder / "output" / "data").exists() and record["TrainingJobStatus"] in FINAL:
            try:
                self._fetch(output, folder / "output" / "data")
            except _NotThere:  # a job that wrote no output data has none
                (folder / "output" / "data").mkdir(parents=True)
        return folder

    def _fetch(self, uri: str, folder: Path) -> None:
        """Brings a .tar.gz in S3, unpacked, or all under a prefix (CompressionType NONE) into a folder, or nothing.

        Raises:
            _NotThere: it is not there.
            UserError: it is not an archive, or has members that would land elsewhere, or may not be read.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            archive, content = Path(temporary) / "archive", Path(temporary) / "content"
            bucket, key = split_s3(uri)
            content.mkdir()
            try:
                if uri.endswith(".tar.gz"):
                    self.client("s3").download_file(bucket, key, str(archive))
                    unpack(archive, content)
                else:
                    uri = f"{uri.rstrip('/')}/"
                    inputs.download_prefix(self.client("s3"), uri, content, hidden=True)
            except inputs.NoObjects as error:
                raise _NotThere(str(error)) from None
            except UserError as error:
                raise UserError(f"{uri} cannot be unpacked: {error}") from None
            except (botocore.exceptions.ClientError, OSError) as error:
                missing = isinstance(error, botocore.exceptions.ClientError) and error.response["Error"]["Code"] in (
                    "404",
                    "NoSuchKey",
                )
                raise (_NotThere if missing else UserError)(f"{uri} cannot be unpacked: {error}") from None
            content.rename(folder)

    def records(self) -> Listing:
        """The newest training and tuning jobs whose names are this launcher's; trials are not among them."""
        tunings = self._newest("list_hyper_parameter_tuning_jobs", "HyperParameterTuningJobSummaries")
        names = tuple(f"{tuning['HyperParameterTuningJobName']}-" for tuning in tunings)
        return Listing(self._newest("list_training_jobs", "TrainingJobSummaries", without=names), tunings, [])

    def _newest(self, operation: str, key: str, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        pages = (
            self.client("sagemaker")
            .get_paginator(operation)
            .paginate(SortBy="CreationTime", SortOrder="Descending", NameContains=_PREFIX)
        )
        found = (job for page in pages for job in page[key] if not job.get("TrainingJobName", "").startswith(without))
        return list(itertools.islice(found, _LISTED))

    # Tuning jobs

    def start_tuning(self, request: dict[str, Any], model_db: str = "", pack: Pack = ALONE) -> str:
        """Starts a tuning job and returns its name; SageMaker has no room for `model_db`, and starts a job a trial."""
        self.client("sagemaker").create_hyper_parameter_tuning_job(**request)
        return request["HyperParameterTuningJobName"]

    def resume_tuning(self, name: str) -> None:
        raise UserError(
            f"SageMaker cannot go on with a tuning job; one that learns from it: tune --on aws --warm-start {name}"
        )

    def describe_tuning(self, name: str) -> dict[str, Any]:
        """DescribeHyperParameterTuningJob.

        Raises:
            NoSuchJob: there is none.
        """
        return self._describe("describe_hyper_parameter_tuning_job", "tuning job", HyperParameterTuningJobName=name)

    def trials(self, name: str) -> list[dict[str, Any]]:
        """A tuning job's trials, the oldest first."""
        paginator = self.client("sagemaker").get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
        pages = paginator.paginate(HyperParameterTuningJobName=name, SortBy="CreationTime", SortOrder="Ascending")
        return [trial for page in pages for trial in page["TrainingJobSummaries"]]

    def stop_tuning(self, name: str) -> None:
        """Asks a tuning job and its running trials to end."""
        self.client("sagemaker").stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)

    # The image

    def push(self, image: str, repository: str) -> str:
        """Tags and pushes an image to ECR, making the repository where it is missing.

        Returns:
            The URI that a request's TrainingImage takes.

        Raises:
            UserError: docker refuses, or the tag is taken.
        """
        ecr = self.client("ecr")
        try:
            found = ecr.describe_repositories(repositoryNames=[repository])["repositories"][0]
        except ecr.exceptions.RepositoryNotFoundException:
            found = ecr.create_repository(repositoryName=repository, imageScanningConfiguration={"scanOnPush": True})[
                "repository"
            ]
        named = ":" in image.rsplit("/", 1)[-1]
        tag = image.rsplit(":", 1)[1] if named else _docker("image", "inspect", "--format", "{{.Id}}", image)[7:19]
        uri = f"{found['repositoryUri']}:{tag}"
        if found.get("imageTagMutability") == "IMMUTABLE":
            taken = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": tag}])["images"]
            if taken and named:
                raise UserError(f"there is an image {uri}, and its tag cannot be moved; give --image another tag")
            if taken:
                return uri  # the tag is the content's
        token = ecr.get_authorization_token()["authorizationData"][0]
        user, password = base64.b64decode(token["authorizationToken"]).decode("ascii").split(":", 1)
        _docker("login", "--username", user, "--password-stdin", token["proxyEndpoint"], given=password)
        _docker("tag", image, uri)
        _docker("push", uri)
        return uri


def _docker(*arguments: str, given: str | None = None) -> str:
    """What the docker command printed."""
    try:
        return subprocess.run(
            ["docker", *arguments],
            input=given,
            text=True,
            check=True,
            capture_output=True,
        ).stdout.strip()
    except FileNotFoundError:
        raise UserError("the docker command is not installed; install it to push an image") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"docker {arguments[0]} failed: {' '.join(error.stderr.split())}") from None
