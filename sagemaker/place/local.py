"""The place called local: jobs as processes on this machine, started by the image's own `train` command."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rules
from ml.errors import UserError
from ml.files import write_json
from place import inputs
from place.base import FINAL, Upload
from place.folders import POLL_SECONDS
from place.record import LOG, RECORD, RUNNER_LOCK, DamagedRecord, is_locked, now, signal_job, take_lock, write_record
from place.tuning import TuningFolders, spawn
from request import s3_sources

_RUNNER = Path(__file__).resolve().with_name("runner.py")
_CONTAINER = _RUNNER.parents[2] / "container"

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


class LocalPlace(TuningFolders):
    """Jobs as processes on this machine. Each is owned by a `runner` process, which outlives the launcher.

    Args:
        runs: the folder of job folders.
    """

    name = "local"
    interrupt_stops_job = True
    has_sample_market = True
    image: str | None = None

    def prepare(self, request: dict[str, Any]) -> list[Upload]:
        return []

    def problems_with(self, request: dict[str, Any]) -> Iterator[str]:
        return rules.problems_on_this_machine(request)

    def examine(self, request: dict[str, Any]) -> None:
        pass

    def estimate(self, request: dict[str, Any]) -> str:
        return ""

    def bill(self, record: dict[str, Any]) -> str:
        return ""

    def upload(self, uploads: list[Upload]) -> None:
        pass

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
        assert lock is not None  # noqa: S101 - the folder was made above, so nobody else holds it
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
        spawn(_RUNNER, folder, lock, folder / LOG, secrets)
        return name

    def stop(self, name: str) -> None:
        """Asks a job to end; it has two minutes to do so, as on SageMaker."""
        record = self.describe(name)
        while record["TrainingJobStatus"] == "InProgress" and "RunnerPid" not in record:  # just started
            time.sleep(POLL_SECONDS)
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

    def remove(self, name: str) -> None:
        """Ends whatever is left of a job and forgets it."""
        with contextlib.suppress(DamagedRecord):
            if self.has(name):
                self.stop(name)
                for _ in self.lines(name, follow=True):
                    pass
        shutil.rmtree(self.folder(name), ignore_errors=True)

    def _command(self, folder: Path, request: dict[str, Any], cores: Sequence[int]) -> dict[str, Any]:
        environment = {
            "SAGEMAKER_BASE_DIR": str(folder),
            "PYTHONPATH": str(_CONTAINER),
            "PYTHONUNBUFFERED": "1",
            "TRAINING_JOB_NAME": request["TrainingJobName"],
        } | request.get("Environment", {})
        return {"Command": [sys.executable, str(_CONTAINER / "bin" / "train")], "CommandEnvironment": environment}

    def _secrets(self, request: dict[str, Any]) -> dict[str, str]:
        """Credentials, passed by environment and never recorded; a local process inherits this one's."""
        return {}

    def _write_config(self, folder: Path, request: dict[str, Any]) -> None:
        """The files that SageMaker writes under /opt/ml before it starts a container."""
        for path in ("input/config", "input/data", "model", "output/data"):
            (folder / path).mkdir(parents=True, exist_ok=True)
        mode = request["AlgorithmSpecification"].get("TrainingInputMode", "File")
        config: dict[str, dict[str, Any]] = {
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
            write_json(folder / "input" / "config" / f"{name}.json", content)

    def _inside(self, folder: Path) -> str:
        """The job folder as the job sees it."""
        return str(folder)
