"""The place called docker: jobs as containers of the image on this machine."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.errors import UserError
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
        network = "none" if request.get("EnableNetworkIsolation") else self.network
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
