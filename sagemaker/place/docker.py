"""The place called docker: jobs as containers of the image on this machine."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml.errors import UserError
from place import engine
from place.hosts import HOSTS, Host
from place.local import LocalPlace, host_entry
from request import host_names, s3_sources, training_part

# A job writes below /opt/ml and in a /tmp of its own, and needs no power over the machine.
_FENCES = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108


class DockerPlace(LocalPlace):
    """Jobs as containers of the image, one a host, with the host's folder mounted at /opt/ml.

    Args:
        runs: the folder of job folders.
        network: of the containers of jobs with one host; empty: docker's default.
    """

    name = "docker"
    image: str | None = "position-trainer"  # what `make image` builds

    def __init__(self, runs: Path, network: str = ""):
        super().__init__(runs)
        self.network = network

    def problems_with(self, request: dict[str, Any]) -> Iterator[str]:
        yield from super().problems_with(request)
        hosts = len(host_names(training_part(request)))
        if hosts > 1 and self.network:
            yield (
                f"--docker-network: {hosts} hosts get a network of their own, in which their names are known, received "
                f"{self.network!r}; leave it out, or unset POSITION_TRAINER_DOCKER_NETWORK"
            )

    def _inside(self, host: Host) -> str:
        return "/opt/ml"

    def _network_of(self, hosts: list[Host]) -> dict[str, Any]:
        return {"network_interface_name": "eth0"}

    def preflight(self, request: dict[str, Any]) -> list[str]:
        prices, model = _kydb_folders(request)
        return super().preflight(request) + [
            f"{path} holds prices and models, so the container may write to the prices too; a model_db in another "
            "folder keeps them read-only"
            for path in sorted(prices & model)
        ]

    def _share(self, folder: Path, target: Path) -> None:
        target.mkdir()  # where the folder is mounted

    def _commands(self, request: dict[str, Any], hosts: list[Host]) -> dict[str, Any]:
        if not shutil.which("docker"):
            raise UserError("the docker command is not installed; install it, or run --on local")
        name, start_id = request["TrainingJobName"], secrets.token_hex(6)
        labels = engine.labels_of(self.runs, name, start_id)
        isolated = bool(request.get("EnableNetworkIsolation"))
        record: dict[str, Any] = {engine.LABELS: labels}
        network = ["--network", "none" if isolated else self.network] if isolated or self.network else []
        if len(hosts) > 1:
            record[engine.NETWORK] = {"Name": f"{name}-{start_id}", "Internal": isolated}
        record[HOSTS] = []
        for host in hosts:
            # A job's name may be another container's: what is asked for later is the label.
            container = f"{name}-{start_id}"
            if len(hosts) > 1:
                network = ["--network", record[engine.NETWORK]["Name"], "--network-alias", host.name]
                container += f"-{host.name}"
            command = ["docker", "run", "--rm", "--name", container, *network]
            command += engine.label_options(labels | {engine.HOST_LABEL: host.name})
            command += self._container_options(request, host, several=len(hosts) > 1)
            image = request["AlgorithmSpecification"]["TrainingImage"]
            record[HOSTS].append(host_entry(host, [*command, image, "train"], {}))
        return record

    def _container_options(self, request: dict[str, Any], host: Host, *, several: bool) -> list[str]:
        """What a host's container may use and sees: fences, files, GPUs, cores and variables."""
        options = ["--user", f"{os.getuid()}:{os.getgid()}", *_FENCES, *_mount(host.folder, "/opt/ml")]
        options += _mount(self._looks, "/opt/ml/looks")
        shared = self._snapshots(request)
        if several:
            files = self.folder(request["TrainingJobName"]) / "input" / "data"
            shared = {channel: files / channel for channel in s3_sources(request)} | shared
        for channel, snapshot in shared.items():
            options += _mount(snapshot, f"/opt/ml/input/data/{channel}", read_only=True)
        if Path("/dev/nvidia0").exists() and host.gpus != []:
            options += ["--gpus", "all" if host.gpus is None else f'"device={",".join(host.gpus)}"']
        if host.cores:
            options += ["--cpuset-cpus", ",".join(map(str, host.cores))]
        options += _kydb_mounts(request)
        environment = {"TRAINING_JOB_NAME": request["TrainingJobName"]} | request.get("Environment", {})
        for variable, value in environment.items():
            options += ["--env", f"{variable}={value}"]
        for variable in self._secrets(request):  # by name, so that no value shows in the list of processes
            options += ["--env", variable]
        return options

    def _secrets(self, request: dict[str, Any]) -> dict[str, str]:
        """The caller's AWS credentials, where a setting or a variable of the job names AWS.

        On SageMaker the role's would be there, but not in an isolated job; what the request sets itself stays.
        """
        given = request.get("Environment", {})
        texts = [*request.get("HyperParameters", {}).values(), *given.values()]
        if request.get("EnableNetworkIsolation") or not any(re.search("(s3|dynamodb)://", text) for text in texts):
            return {}
        import boto3

        session = boto3.Session()
        variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")}
        variables["AWS_DEFAULT_REGION"] = session.region_name or ""
        if "AWS_ACCESS_KEY_ID" not in given:
            found = session.get_credentials()
            if found is None:
                raise UserError("the job names S3 or DynamoDB, and no AWS credentials were found; run `aws configure`")
            keys = found.get_frozen_credentials()
            variables |= {
                "AWS_ACCESS_KEY_ID": keys.access_key,
                "AWS_SECRET_ACCESS_KEY": keys.secret_key,
                "AWS_SESSION_TOKEN": keys.token or "",
            }
        return {name: value for name, value in variables.items() if value and name not in given}


def _mount(path: Path, target: str, *, read_only: bool = False) -> list[str]:
    """Options that show a folder of this machine in a container, whatever its path has in it."""
    fields = ["type=bind", f"source={path}", f"target={target}", *(["readonly"] if read_only else [])]
    quoted = [f'"{field.replace(chr(34), chr(34) * 2)}"' if re.search('[",]', field) else field for field in fields]
    return ["--mount", ",".join(quoted)]


def _kydb_mounts(request: dict[str, Any]) -> list[str]:
    """Mounts of the files:// KYDBs where they are, so that their URLs hold in the container.

    Only a model's are writable, and a cache's, which is written when it is read.

    Raises:
        UserError: there is no folder with prices, or it is one that the container has itself.
    """
    prices, writable = _kydb_folders(request)
    options = list[str]()
    for path in sorted(prices | writable):
        if path == Path("/") or Path("/opt/ml").is_relative_to(path):
            raise UserError(f"the KYDB folder {path} would hide the container's own files; use another folder")
        if path in writable:
            path.mkdir(parents=True, exist_ok=True)
        elif not path.is_dir():
            raise UserError(f"prices_db: there is no folder {path}")
        options += _mount(path, str(path), read_only=path not in writable)
    return options


def _kydb_folders(request: dict[str, Any]) -> tuple[set[Path], set[Path]]:
    """Folders of the files:// KYDBs that prices are read from, and of those that are written to."""
    parameters = request.get("HyperParameters") or request.get("TrainingJobDefinition", {}).get(
        "StaticHyperParameters", {}
    )
    read, written = set[Path](), set[Path]()
    for name, kept in (("prices_db", read), ("model_db", written)):
        for part in parameters.get(name, "").split(";"):
            *caches, last = part.split("|")
            kept |= _folders_of([last])
            written |= _folders_of(caches)
    return read, written


def _folders_of(urls: list[str]) -> set[Path]:
    paths = [url.strip().removeprefix("files://") for url in urls if url.strip().startswith("files://")]
    return {Path("/" + path.strip("/")) for path in paths}
