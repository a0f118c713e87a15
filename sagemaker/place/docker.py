"""The place called docker: jobs as containers of the image on this machine."""

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.errors import UserError
from place import engine
from place.local import LocalPlace

# A job writes below /opt/ml and in a /tmp of its own, and needs no power over the machine.
_FENCES = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108


class DockerPlace(LocalPlace):
    """Jobs as containers of the image, with the job folder mounted at /opt/ml.

    Args:
        runs: the folder of job folders.
        network: of the containers; empty: docker's default.
    """

    name = "docker"
    image: str | None = "position-trainer"  # what `make image` builds

    def __init__(self, runs: Path, network: str = ""):
        super().__init__(runs)
        self.network = network

    def _inside(self, folder: Path) -> str:
        return "/opt/ml"

    def preflight(self, request: dict[str, Any]) -> list[str]:
        prices, model = _kydb_folders(request)
        return super().preflight(request) + [
            f"{path} holds prices and models, so the container may write to the prices too; a model_db in another "
            "folder keeps them read-only"
            for path in sorted(prices & model)
        ]

    def _share(self, folder: Path, target: Path) -> None:
        target.mkdir()  # where the folder is mounted

    def _command(self, folder: Path, request: dict[str, Any], cores: Sequence[int]) -> dict[str, Any]:
        if not shutil.which("docker"):
            raise UserError("the docker command is not installed; install it, or run --on local")
        name, start_id = request["TrainingJobName"], secrets.token_hex(6)
        labels = engine.labels_of(self.runs, name, start_id)
        # A job's name may be another container's: what is asked for later is the label.
        command = ["docker", "run", "--rm", "--name", f"{name}-{start_id}"]
        command += [part for label, value in labels.items() for part in ("--label", f"{label}={value}")]
        command += ["--user", f"{os.getuid()}:{os.getgid()}", *_FENCES, *_mount(folder, "/opt/ml")]
        command += _mount(self._looks, "/opt/ml/looks")
        for channel, snapshot in self._snapshots(request).items():
            command += _mount(snapshot, f"/opt/ml/input/data/{channel}", read_only=True)
        network = "none" if request.get("EnableNetworkIsolation") else self.network
        if network:
            command += ["--network", network]
        if Path("/dev/nvidia0").exists():
            command += ["--gpus", "all"]
        if cores:
            command += ["--cpuset-cpus", ",".join(map(str, cores))]
        command += _kydb_mounts(request)
        environment = {"TRAINING_JOB_NAME": name} | request.get("Environment", {})
        for variable, value in environment.items():
            command += ["--env", f"{variable}={value}"]
        for variable in self._secrets(request):  # by name, so that no value shows in the list of processes
            command += ["--env", variable]
        image = request["AlgorithmSpecification"]["TrainingImage"]
        return {"Command": [*command, image, "train"], "CommandEnvironment": {}, engine.LABELS: labels}

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
