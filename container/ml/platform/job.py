"""What SageMaker asked for and where results go: everything under /opt/ml, read once.

All paths hang on one base folder, so that a test or a local run only has to name another one.
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from ml.errors import UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """A training job as the container sees it.

    Attributes:
        base: the folder that SageMaker mounts (/opt/ml).
        name: the job's name; `local` where nobody gave one.
        hyperparameters: name to text, as sent.
        channels: channel name to the folder with its files.
        hosts: host names in the order of their numbers.
        instance_type: such as `ml.g5.xlarge`; empty where unknown.
        checkpoints: the folder to keep checkpoints in; None where the job has none.
    """

    base: Path
    name: str
    hyperparameters: dict[str, Any]
    channels: dict[str, Path]
    hosts: tuple[str, ...]
    instance_type: str
    checkpoints: Path | None

    @property
    def model(self) -> Path:
        return self.base / "model"

    @property
    def output_data(self) -> Path:
        return self.base / "output" / "data"

    @property
    def looks(self) -> Path | None:
        """The folder in which the launcher counts the looks of all its jobs at test parts; None: there is none."""
        folder = self.base / "looks"
        return folder if folder.is_dir() else None

    @property
    def tensorboard(self) -> Path:
        return self.base / "output" / "tensorboard"

    def refuse_several_hosts(self) -> None:
        """Raises UserError where the job has more hosts than can be used."""
        if len(self.hosts) > 1:
            raise UserError(
                f"the job has {len(self.hosts)} hosts and can use one; set ResourceConfig.InstanceCount "
                "to 1, and choose an instance with more GPUs for more speed"
            )


def base_folder() -> Path:
    """/opt/ml, or the folder that the toolkit's SAGEMAKER_BASE_DIR names."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml")


def _read_config(base: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    """The JSON object in input/config/`name`; {} where the file may be absent and is."""
    path = base / "input" / "config" / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise UserError(
            f"{path} is missing; SageMaker writes it, and a local run must mount a folder that has it at {base}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, received {type(content).__name__}")
    return content


def _path(text: Any, where: object) -> Path:
    if not isinstance(text, str) or not text.isprintable():
        raise UserError(f"{where} must be the path of a folder, received {text!r}")
    return Path(text)


def _channel(name: str) -> str:
    """A channel's name; one with a path in it would read elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9.\-_]{1,64}", name) or name in (".", ".."):
        raise UserError(
            f"a channel is named {name!r}; its name must be of letters, digits, dots, hyphens and underscores"
        )
    return name


def _host_number(host: str) -> tuple[int, str]:
    """Sort key that puts algo-2 before algo-10."""
    number = re.search(r"\d+$", host)
    return int(number.group()) if number else 0, host


def read_job(base: Path) -> Job:
    """The job described by the files under a base folder.

    Raises:
        UserError: a file is missing or malformed.
    """
    hyperparameters = _read_config(base, "hyperparameters.json", required=True)
    resources = _read_config(base, "resourceconfig.json")
    # Channels are listed in a file on SageMaker; a plain `docker run` only has their folders.
    data = base / "input" / "data"
    listed = _read_config(base, "inputdataconfig.json") or {path.name: {} for path in data.glob("*") if path.is_dir()}
    hosts = resources.get("hosts") or ["algo-1"]
    if not (isinstance(hosts, list) and all(isinstance(host, str) for host in hosts)):
        raise UserError(
            f"{base / 'input/config/resourceconfig.json'}: hosts must be a list of names, received {hosts!r}"
        )
    checkpoint_config = _read_config(base, "checkpointconfig.json")
    # SageMaker makes the folder only for a job with a CheckpointConfig, whose path is its own.
    checkpoints = _path(
        checkpoint_config.get("LocalPath") or str(base / "checkpoints"),
        base / "input/config/checkpointconfig.json: LocalPath",
    )
    return Job(
        base=base,
        name=os.environ.get("TRAINING_JOB_NAME") or "local",
        hyperparameters=hyperparameters,
        channels={name: data / _channel(name) for name in listed},
        hosts=tuple(sorted(hosts, key=_host_number)),
        instance_type=str(resources.get("current_instance_type") or ""),
        checkpoints=checkpoints if checkpoint_config or checkpoints.is_dir() else None,
    )
