"""The places on this machine where a job runs: a process, or a container of the image.

A place starts a job from a request, describes it in the words of DescribeTrainingJob, gives its log, stops
it and collects what it left. `aws.AwsPlace` does the same for SageMaker. Here a job is a folder under the
runs folder, laid out like /opt/ml, with its record and log beside that; a `runner` process owns it.
"""

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import inputs
from ml.errors import UserError
from request import objective_of, ranges_of, s3_sources
from runner import (
    FINAL,
    LOG,
    RECORD,
    RUNNER_LOCK,
    is_locked,
    metrics_in,
    now,
    read_record,
    signal_job,
    take_lock,
    write_record,
)

_HERE = Path(__file__).resolve().parent
_CONTAINER = _HERE.parent / "container"
_POLL_SECONDS = 0.2
_EXIT_SECONDS = 10
# A job writes below /opt/ml and in a /tmp of its own, and needs no power over the machine.
_FENCES = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108

# What DescribeTrainingJob repeats of its request.
_DESCRIBED = (
    "HyperParameters",
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "CheckpointConfig",
    "Environment",
    "TuningJobName",
)
_SUMMARISED = (
    "TrainingJobName",
    "TrainingJobStatus",
    "CreationTime",
    "TrainingStartTime",
    "TrainingEndTime",
    "FailureReason",
)

TUNING_RECORD = "tuning_job.json"
TUNING_LOG = "tuning.log"


class LocalPlace:
    """Jobs as processes on this machine, started by the image's own `train` command.

    Args:
        runs: the folder of job folders.
    """

    name = "local"

    def __init__(self, runs: Path):
        self.runs = runs.resolve()

    def start(self, request: dict[str, Any], *, cores: Sequence[int] = ()) -> str:
        """Starts a job and returns its name.

        Args:
            request: a checked CreateTrainingJob request.
            cores: the CPU cores it may use; empty: all.

        Raises:
            UserError: the name is taken, or a channel cannot be read.
        """
        name = request["TrainingJobName"]
        folder = self.folder(name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"there is a job {name} already, in {folder}; choose another --name") from None
        try:
            command, secrets = self._command(folder, request, cores), self._secrets(request)
            for channel, source in s3_sources(request).items():
                inputs.bring_channel(source["S3Uri"], folder / "input" / "data" / channel)
        except UserError:
            shutil.rmtree(folder)
            raise
        self._write_config(folder, request)
        lock = take_lock(folder)
        record = {
            "TrainingJobName": name,
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "CreationTime": now(),
            **{key: request[key] for key in _DESCRIBED if key in request},
            "Place": self.name,
            "Cores": list(cores),
            **command,
        }
        write_record(folder / RECORD, record)
        _spawn("runner.py", folder, lock, folder / LOG, secrets)
        return name

    def folder(self, name: str) -> Path:
        return self.runs / name

    def has(self, name: str) -> bool:
        """Whether there is a job of that name here."""
        return (self.folder(name) / RECORD).is_file()

    def describe(self, name: str) -> dict[str, Any]:
        """The job's record; a job whose process vanished is Failed.

        Raises:
            UserError: there is no such job.
        """
        folder = self.folder(name)
        # The lock first: a job that ends between the two looks has its last word in the record.
        running = folder.is_dir() and is_locked(folder)
        try:
            record = read_record(folder / RECORD)
        except FileNotFoundError:
            raise UserError(f"there is no job {name} in {self.runs}; `list` shows those there are") from None
        if not running and record["TrainingJobStatus"] not in FINAL:
            record |= {
                "TrainingJobStatus": "Failed",
                "SecondaryStatus": "Interrupted",
                "FailureReason": "InternalServerError: the job's process vanished; it was killed, or the "
                "machine was restarted",
            }
        return record

    def lines(self, name: str, *, follow: bool) -> Iterator[str]:
        """The lines of a job's or a tuning job's log; with `follow`, until it ends."""
        tuning = self.has_tuning(name)
        path = self.folder(name) / (TUNING_LOG if tuning else LOG)
        rest = b""
        position = 0
        while True:
            ended = (
                self.describe_tuning(name)["HyperParameterTuningJobStatus"]
                if tuning
                else self.describe(name)["TrainingJobStatus"]
            ) in FINAL
            if path.exists():
                with path.open("rb") as file:
                    file.seek(position)
                    rest += (chunk := file.read())
                position += len(chunk)
            *whole, rest = rest.split(b"\n")
            yield from (line.decode("utf-8", errors="replace") for line in whole)
            if ended or not follow:
                break
            time.sleep(_POLL_SECONDS)
        if rest:
            yield rest.decode("utf-8", errors="replace")

    def metric_values(self, record: dict[str, Any], metric: str) -> list[float]:
        """The values of a metric in a job's log, an epoch each; [] where it is none of the job's."""
        definitions = [
            definition
            for definition in record["AlgorithmSpecification"]["MetricDefinitions"]
            if definition["Name"] == metric
        ]
        try:
            log = (self.folder(record["TrainingJobName"]) / LOG).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        whole_lines = log[: log.rfind("\n") + 1]
        return metrics_in(whole_lines, definitions)[metric] if definitions else []

    def stop(self, name: str) -> None:
        """Asks a job to end; it has two minutes to do so, as on SageMaker."""
        record = self.describe(name)
        while record["TrainingJobStatus"] == "InProgress" and "RunnerPid" not in record:  # just started
            time.sleep(_POLL_SECONDS)
            record = self.describe(name)
        if record["TrainingJobStatus"] in FINAL:
            return
        if is_locked(self.folder(name), RUNNER_LOCK):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(record["RunnerPid"], signal.SIGTERM)
        else:  # it was killed, and its job runs on
            signal_job(record, signal.SIGTERM)

    def collect(self, name: str) -> Path:
        """The folder with the job's model/ and output/."""
        return self.folder(name)

    def records(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The training jobs and the tuning jobs here, the newest first; trials are not among them."""
        jobs = (self.describe(path.parent.name) for path in self.runs.glob(f"*/{RECORD}"))
        tunings = (self.describe_tuning(path.parent.name) for path in self.runs.glob(f"*/{TUNING_RECORD}"))
        newest = {"key": lambda record: record["CreationTime"], "reverse": True}
        return sorted((job for job in jobs if "TuningJobName" not in job), **newest), sorted(tunings, **newest)

    def remove(self, name: str) -> None:
        """Ends whatever is left of a job and forgets it."""
        if self.has(name):
            self.stop(name)
            for _ in self.lines(name, follow=True):
                pass
        shutil.rmtree(self.folder(name), ignore_errors=True)

    # Tuning jobs

    def start_tuning(self, request: dict[str, Any], **ours: Any) -> str:
        """Starts a tuning job and returns its name.

        Args:
            request: a checked CreateHyperParameterTuningJob request.
            ours: what the record keeps beside the request.

        Raises:
            UserError: the name is taken, a channel cannot be read, or a job to learn from is not here.
        """
        for parent in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
            self.describe_tuning(parent["HyperParameterTuningJobName"])
        name = request["HyperParameterTuningJobName"]
        folder = self.folder(name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(
                f"there is a job {name} already, in {folder}; choose another --name, or go on with "
                f"it by tune --resume {name}"
            ) from None
        try:
            for channel, source in s3_sources(request).items():  # downloaded once, and not in every trial
                if source["S3Uri"].startswith("s3://"):
                    kept = folder / "input" / channel
                    inputs.bring_channel(source["S3Uri"], kept)
                    source["S3Uri"] = kept.as_uri()
        except UserError:
            shutil.rmtree(folder)
            raise
        seed = request["HyperParameterTuningJobConfig"].get("RandomSeed", random.SystemRandom().randrange(2**31))
        record = {
            **request,
            "HyperParameterTuningJobStatus": "InProgress",
            "CreationTime": now(),
            "Place": self.name,
            "RandomSeed": seed,
            **ours,
        }
        write_record(folder / TUNING_RECORD, record)
        self.resume_tuning(name)
        return name

    def resume_tuning(self, name: str) -> None:
        """Goes on with a tuning job that was killed, stopped or not yet started.

        Raises:
            UserError: there is none, it runs, or it is complete.
        """
        record = self.describe_tuning(name)
        deadline = time.monotonic() + _EXIT_SECONDS
        while (
            (lock := take_lock(self.folder(name))) is None
            and record["HyperParameterTuningJobStatus"] in FINAL
            and time.monotonic() < deadline
        ):  # it has written its last word and is about to exit
            time.sleep(_POLL_SECONDS)
        if lock is None:
            raise UserError(f"the tuning job {name} is running; `logs {name}` follows it")
        if record["HyperParameterTuningJobStatus"] == "Completed":
            raise UserError(f"the tuning job {name} is Completed; `best {name}` shows what it found")
        for key in ("HyperParameterTuningEndTime", "FailureReason", "SearchPid"):
            record.pop(key, None)
        write_record(self.folder(name) / TUNING_RECORD, record | {"HyperParameterTuningJobStatus": "InProgress"})
        _spawn("tuning.py", self.folder(name), lock, self.folder(name) / TUNING_LOG, {})

    def has_tuning(self, name: str) -> bool:
        """Whether there is a tuning job of that name here."""
        return (self.folder(name) / TUNING_RECORD).is_file()

    def describe_tuning(self, name: str) -> dict[str, Any]:
        """The tuning job's record; one whose process vanished is Failed, and can be resumed.

        Raises:
            UserError: there is no such tuning job.
        """
        folder = self.folder(name)
        running = folder.is_dir() and is_locked(folder)
        try:
            record = read_record(folder / TUNING_RECORD)
        except FileNotFoundError:
            raise UserError(f"there is no tuning job {name} in {self.runs}; `list` shows those there are") from None
        if not running and record["HyperParameterTuningJobStatus"] not in FINAL:
            record |= {
                "HyperParameterTuningJobStatus": "Failed",
                "FailureReason": "InternalServerError: the search's process vanished; "
                f"tune --resume {name} goes on where it was",
            }
        return record

    def trials(self, name: str) -> list[dict[str, Any]]:
        """A tuning job's trials in their order, as ListTrainingJobsForHyperParameterTuningJob lists them.

        The objective of a running trial is its latest value.
        """
        tuning = read_record(self.folder(name) / TUNING_RECORD)
        metric, _ = objective_of(tuning)
        tuned = [entry["Name"] for _, entry in ranges_of(tuning)]
        found = []
        for path in sorted(self.runs.glob(f"{name}-*/{RECORD}")):
            record = self.describe(path.parent.name)
            if record.get("TuningJobName") != name:
                continue
            trial = {key: record[key] for key in _SUMMARISED if key in record}
            trial["TunedHyperParameters"] = {name: record["HyperParameters"][name] for name in tuned}
            values = self.metric_values(record, metric)
            if values and math.isfinite(values[-1]):
                trial["FinalHyperParameterTuningJobObjectiveMetric"] = {"MetricName": metric, "Value": values[-1]}
            found.append(trial)
        return found

    def stop_tuning(self, name: str) -> None:
        """Asks a tuning job and its running trials to end, also those that a killed search left behind."""
        record = self.describe_tuning(name)
        while record["HyperParameterTuningJobStatus"] == "InProgress" and "SearchPid" not in record:
            time.sleep(_POLL_SECONDS)
            record = self.describe_tuning(name)
        if record["HyperParameterTuningJobStatus"] not in FINAL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record["SearchPid"], signal.SIGTERM)
            return
        for trial in self.trials(name):
            self.stop(trial["TrainingJobName"])

    def _command(self, folder: Path, request: dict[str, Any], cores: Sequence[int]) -> dict[str, Any]:
        environment = {
            "SAGEMAKER_BASE_DIR": str(folder),
            "PYTHONPATH": str(_CONTAINER),
            "PYTHONUNBUFFERED": "1",
            "TRAINING_JOB_NAME": request["TrainingJobName"],
        } | request.get("Environment", {})
        return {"Command": [sys.executable, str(_CONTAINER / "bin" / "train")], "CommandEnvironment": environment}

    def _secrets(self, request: dict[str, Any]) -> dict[str, str]:
        """Variables that the job needs and that no record may hold; a process has this one's anyway."""
        return {}

    def _write_config(self, folder: Path, request: dict[str, Any]) -> None:
        """The files that SageMaker writes under /opt/ml before it starts a container."""
        for path in ("input/config", "input/data", "model", "output/data"):
            (folder / path).mkdir(parents=True, exist_ok=True)
        mode = request["AlgorithmSpecification"].get("TrainingInputMode", "File")
        config = {
            "hyperparameters": request.get("HyperParameters", {}),
            "inputdataconfig": {
                channel: {
                    "TrainingInputMode": mode,
                    "S3DistributionType": "FullyReplicated",
                    "RecordWrapperType": "None",
                }
                for channel in s3_sources(request)
            },
            # Not the request's instance: the job would look for its GPU.
            "resourceconfig": {
                "current_host": "algo-1",
                "hosts": ["algo-1"],
                "network_interface_name": "eth0",
                "current_instance_type": "local",
            },
        }
        if "CheckpointConfig" in request:
            (folder / "checkpoints").mkdir(exist_ok=True)
            config["checkpointconfig"] = {"LocalPath": f"{self._inside(folder)}/checkpoints"}
        for name, content in config.items():
            path = folder / "input" / "config" / f"{name}.json"
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _inside(self, folder: Path) -> str:
        """The job folder as the job sees it."""
        return str(folder)


class DockerPlace(LocalPlace):
    """Jobs as containers of the image, with the job folder mounted at /opt/ml.

    Args:
        runs: the folder of job folders.
        network: of the containers; empty: docker's default.
    """

    name = "docker"

    def __init__(self, runs: Path, network: str = ""):
        super().__init__(runs)
        self._network = network

    def _inside(self, folder: Path) -> str:
        return "/opt/ml"

    def remove(self, name: str) -> None:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
        super().remove(name)

    def _command(self, folder: Path, request: dict[str, Any], cores: Sequence[int]) -> dict[str, Any]:
        if not shutil.which("docker"):
            raise UserError("the docker command is not installed; install it, or run --on local")
        name = request["TrainingJobName"]
        command = [
            "docker",
            "run",
            "--rm",
            "--name",
            name,
            "--user",
            f"{os.getuid()}:{os.getgid()}",
            "--volume",
            f"{folder}:/opt/ml",
            *_FENCES,
        ]
        network = "none" if request.get("EnableNetworkIsolation") else self._network
        if network:
            command += ["--network", network]
        if Path("/dev/nvidia0").exists():
            command += ["--gpus", "all"]
        if cores:
            command += ["--cpuset-cpus", ",".join(map(str, cores))]
        for path in _kydb_folders(request):
            Path(path).mkdir(parents=True, exist_ok=True)
            command += ["--volume", f"{path}:{path}"]
        environment = {"TRAINING_JOB_NAME": name} | request.get("Environment", {})
        for variable, value in environment.items():
            command += ["--env", f"{variable}={value}"]
        for variable in self._secrets(request):  # by name, so that no value shows in the list of processes
            command += ["--env", variable]
        image = request["AlgorithmSpecification"]["TrainingImage"]
        return {"Command": [*command, image, "train"], "CommandEnvironment": {}, "Container": name}

    def _secrets(self, request: dict[str, Any]) -> dict[str, str]:
        """The caller's AWS credentials, where a KYDB is on AWS: on SageMaker the role's would be there."""
        if not any(url.startswith(("s3://", "dynamodb://")) for url in _kydb_urls(request)):
            return {}
        import boto3

        session = boto3.Session()
        found = session.get_credentials()
        if found is None:
            raise UserError("the job's KYDB is on AWS, and no AWS credentials were found; run `aws configure`")
        keys = found.get_frozen_credentials()
        endpoints = {name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")}
        variables = {
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_SESSION_TOKEN": keys.token,
            "AWS_DEFAULT_REGION": session.region_name,
        }
        return endpoints | {name: value for name, value in variables.items() if value}


def _spawn(program: str, folder: Path, lock: int, log: Path, variables: dict[str, str]) -> None:
    """Starts the process that owns a job's folder, in a session of its own, and hands it the lock."""
    with log.open("ab") as output:
        subprocess.Popen(
            [sys.executable, _HERE / program, folder, str(lock)],
            pass_fds=[lock],
            start_new_session=True,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    os.close(lock)


def place_on_this_machine(name: str, runs: Path, docker_network: str = "") -> LocalPlace:
    """The place called local or docker."""
    return DockerPlace(runs, docker_network) if name == "docker" else LocalPlace(runs)


def _kydb_urls(request: dict[str, Any]) -> list[str]:
    """The URLs of every KYDB in the hyperparameters; unions and caches are several."""
    parameters = request.get("HyperParameters", {})
    joined = ";".join(parameters.get(name, "") for name in ("prices_db", "model_db"))
    return [url.strip() for url in re.split(r"[;|]", joined) if url.strip()]


def _kydb_folders(request: dict[str, Any]) -> list[str]:
    """Folders of the files:// KYDBs, mounted where they are, so that their URLs hold in the container."""
    return sorted(
        {"/" + url.removeprefix("files://").strip("/") for url in _kydb_urls(request) if url.startswith("files://")}
    )
