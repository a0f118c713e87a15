"""The place called local: jobs as processes on this machine, started by the image's own `train` command."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rules
from ml.errors import UserError
from ml.files import write_json
from place import engine, inputs, staging
from place.base import FINAL, NoSuchJob, Upload
from place.folders import POLL_SECONDS, is_trial_of
from place.hosts import (
    HOSTS,
    LOOPBACK,
    Host,
    folder_of_host,
    free_ports,
    machine_cores,
    machine_gpus,
    merge,
    shares,
)
from place.record import JOB_LOCK, LOG, LOOKS, RECORD, RUNNER_LOCK, is_locked, now, signal_job, write_record
from place.tuning import TuningFolders, spawn
from request import JOB_PARTS, host_names, local_paths, name_of, s3_sources, training_part

_RUNNER = Path(__file__).resolve().with_name("runner.py")
_CONTAINER = _RUNNER.parents[2] / "container"

# What DescribeTrainingJob repeats of its request.
_DESCRIBED = ("HyperParameters", *JOB_PARTS, "CheckpointConfig", "TuningJobName", "SearchId")


class LocalPlace(TuningFolders):
    """Jobs as processes on this machine, one a host. A job is owned by a `runner` process, which outlives the launcher.

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

    def preflight(self, request: dict[str, Any]) -> list[str]:
        staging.refuse_taken(self.folder(name_of(request)))
        hosts, gpus = len(host_names(training_part(request))), machine_gpus()
        if hosts == 1:
            return []
        told = [f"{hosts} hosts share this machine: a rehearsal, which is no faster than one host"]
        if gpus and len(gpus) < hosts:
            told.append(f"this machine has {len(gpus)} GPU{'s' * (len(gpus) > 1)} for {hosts} hosts, so none uses one")
        return told

    def start(self, request: dict[str, Any], *, cores: Sequence[int] = ()) -> str:
        """Starts a job and returns its name. Where that fails, nothing of it is left.

        Args:
            request: a checked CreateTrainingJob request.
            cores: the CPU cores it may use, its hosts dealt out among them; empty: all.

        Raises:
            UserError: the name is taken, a channel cannot be read, or the disk refuses.
        """
        name = request["TrainingJobName"]
        with staging.staged(self.runs, name) as start:
            hosts = self._hosts(start.final, request, cores)
            commands, secrets = self._commands(request, hosts), self._secrets(request)
            self._bring_channels(start, request, hosts)
            self._write_config(start, request, hosts)
            record = {
                "TrainingJobName": name,
                "TrainingJobStatus": "InProgress",
                "SecondaryStatus": "Starting",
                "CreationTime": now(),
                **{key: request[key] for key in _DESCRIBED if key in request},
                "Place": self.name,
                "Cores": list(cores),
                **commands,
            }
            write_record(start.folder / RECORD, record)
            with staging.interrupts_delayed() as interrupted:
                start.commit()
                spawn(_RUNNER, start.folder, start.lock, start.folder / LOG, secrets)
                start.hand_over()
        if interrupted:
            self.stop(name)
            raise KeyboardInterrupt
        return name

    def _hosts(self, folder: Path, request: dict[str, Any], cores: Sequence[int]) -> list[Host]:
        """The hosts of a job, each with its share of the machine where there are several."""
        names = host_names(request)
        if len(names) == 1:
            return [Host(names[0], folder, list(cores), None)]
        gpus = machine_gpus()
        return [
            Host(name, folder_of_host(folder, name), own_cores, own_gpus)
            for name, own_cores, own_gpus in zip(
                names,
                shares(cores or machine_cores(), len(names)),
                shares(gpus if len(gpus) >= len(names) else [], len(names)),  # two cannot share one
                strict=True,
            )
        ]

    def _bring_channels(self, start: staging.Start, request: dict[str, Any], hosts: list[Host]) -> None:
        """Copies a job's channels into its folder, and lets its other hosts read them there."""
        snapshots = self._snapshots(request)
        for channel, source in s3_sources(request).items():
            inside = Path("input") / "data" / channel
            for host in hosts:
                target = folder_of_host(start.folder, host.name) / inside
                if channel not in snapshots and host is hosts[0]:
                    inputs.bring_channel(source["S3Uri"], target, read_only=len(hosts) > 1)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._share(snapshots.get(channel, start.final / inside), target)

    @property
    def _looks(self) -> Path:
        """Where all jobs here record that they looked at a test part (`ml.deliver.looks`); their runners make it."""
        return self.runs / LOOKS

    def _snapshots(self, request: dict[str, Any]) -> dict[str, Path]:
        """The channels of a trial that its tuning job has copied once for all of them."""
        if "TuningJobName" not in request:
            return {}
        kept = self.folder(request["TuningJobName"]) / "input"
        paths = {
            channel: local_paths(source["S3Uri"])[0]
            for channel, source in s3_sources(request).items()
            if source["S3Uri"].startswith("file://")
        }
        return {channel: path for channel, path in paths.items() if path.is_relative_to(kept)}

    def _share(self, folder: Path, target: Path) -> None:
        """Shows a job, or a further host of one, a folder of this machine, such as a snapshot as a trial's channel."""
        target.symlink_to(folder)

    def stop(self, name: str) -> None:
        """Asks a job to end; it has two minutes to do so, as on SageMaker."""
        record = self.describe(name)
        while record["TrainingJobStatus"] == "InProgress" and "RunnerPid" not in record:  # just started
            time.sleep(POLL_SECONDS)
            record = self.describe(name)
        if record["TrainingJobStatus"] in FINAL:
            return
        folder = self.folder(name)
        if is_locked(folder, RUNNER_LOCK):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(record["RunnerPid"], signal.SIGTERM)
            return
        # The runner was killed, and its job runs on; nobody else writes the record.
        write_record(folder / RECORD, record | {"TrainingJobStatus": "Stopping", "SecondaryStatus": "Stopping"})
        signal_job(record, signal.SIGTERM, folder / JOB_LOCK)

    def collect(self, name: str) -> Path:
        """The folder with the job's model/ and output/."""
        record, folder = self.describe(name), self.folder(name)
        if record["TrainingJobStatus"] in FINAL:  # its runner did it, unless that was killed
            merge(folder, record)
        return folder

    def trial_record(self, name: str, tuning: dict[str, Any]) -> dict[str, Any]:
        """The record of a tuning job's own trial.

        Raises:
            NoSuchJob: the name is free.
            UserError: it is of something that the tuning job did not make, or cannot be read.
        """
        folder = self.folder(name)
        if not os.path.lexists(folder):
            raise NoSuchJob(f"there is no job {name} in {self.runs}")
        if not self.has(name) or not is_trial_of(record := self.describe(name), tuning):
            raise UserError(
                f"{folder} is not of the tuning job {tuning['HyperParameterTuningJobName']}, which needs the name "
                f"{name}; move it out of {self.runs}"
            )
        return record

    def remove_trial(self, name: str, tuning: dict[str, Any]) -> None:
        """Forgets a tuning job's own trial that has ended.

        Raises:
            UserError: it is of something that the tuning job did not make, or cannot be read, or may still run.
        """
        record = self.trial_record(name, tuning)
        try:
            running = bool(engine.running_containers(record))
        except engine.EngineSilent as silence:
            raise UserError(f"whether the container of {name} still runs is not known: {silence}") from None
        if running or record["TrainingJobStatus"] not in FINAL:
            raise UserError(f"{name} still runs; stop {name} ends it")
        staging.remove(self.folder(name))

    def _commands(self, request: dict[str, Any], hosts: list[Host]) -> dict[str, Any]:
        """What the job's record says of how its hosts are started."""
        return {HOSTS: [host_entry(host, *self._command(request, host, len(hosts))) for host in hosts]}

    def _command(self, request: dict[str, Any], host: Host, count: int) -> tuple[list[str], dict[str, str]]:
        """The command that starts a host of `count`, and its environment."""
        environment = {
            "SAGEMAKER_BASE_DIR": str(host.folder),
            "PYTHONPATH": str(_CONTAINER),
            "PYTHONUNBUFFERED": "1",
            "TRAINING_JOB_NAME": request["TrainingJobName"],
        }
        if count > 1:  # the toolkit would wait 15 minutes for the hosts' names, which loopback does not have
            environment["SM_STUDIO_LOCAL_MODE"] = "true"
        if host.gpus is not None and machine_gpus():
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(host.gpus) or "-1"
        return [sys.executable, str(_CONTAINER / "bin" / "train")], environment | request.get("Environment", {})

    def _secrets(self, request: dict[str, Any]) -> dict[str, str]:
        """Credentials, passed by environment and never recorded; a local process inherits this one's."""
        return {}

    def _write_config(self, start: staging.Start, request: dict[str, Any], hosts: list[Host]) -> None:
        """The files that SageMaker writes under /opt/ml of each host before it starts a container."""
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
        }
        # Not the request's instance: the job would look for its GPU.
        resources = {
            "hosts": [host.name for host in hosts],
            "current_instance_type": "local",
            **self._network_of(hosts),
        }
        for host in hosts:
            folder = folder_of_host(start.folder, host.name)
            for path in ("input/config", "input/data", "model", "output/data"):
                (folder / path).mkdir(parents=True, exist_ok=True)
            self._share(self._looks, folder / "looks")
            if "CheckpointConfig" in request:
                (folder / "checkpoints").mkdir(exist_ok=True)
                config["checkpointconfig"] = {"LocalPath": f"{self._inside(host)}/checkpoints"}
            config["resourceconfig"] = {"current_host": host.name, **resources}
            for name, content in config.items():
                write_json(folder / "input" / "config" / f"{name}.json", content)

    def _network_of(self, hosts: list[Host]) -> dict[str, Any]:
        """What resourceconfig.json says of how the hosts reach each other: on loopback their names are no addresses."""
        if len(hosts) == 1:
            return {"network_interface_name": "eth0"}
        names = [host.name for host in hosts]
        return {
            "network_interface_name": "lo",
            "ports": dict(zip(names, free_ports(len(names)), strict=True)),
            "addresses": dict.fromkeys(names, LOOPBACK),
        }

    def _inside(self, host: Host) -> str:
        """A host's folder as the job sees it."""
        return str(host.folder)


def host_entry(host: Host, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """A host as a record has it before it is started."""
    return {
        "HostName": host.name,
        "Cores": host.cores,
        "Command": command,
        "CommandEnvironment": environment,
        "JobPid": None,
        "ExitCode": None,
    }
