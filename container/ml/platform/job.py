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
from ml.host import PORT, Host


@dataclasses.dataclass(frozen=True)
class Job:
    """A training job as the container sees it.

    Attributes:
        base: the folder that SageMaker mounts (/opt/ml).
        name: the job's name; `local` where nobody gave one.
        hyperparameters: name to text, as sent.
        channels: channel name to the folder with its files.
        hosts: in the order of their numbers.
        host: name of this one.
        instance_type: such as `ml.g5.xlarge`; empty where unknown.
        checkpoints: the folder to keep checkpoints in; None where the job has none.
        instance_types: of the job's instance groups, where it has such.
    """

    base: Path
    name: str
    hyperparameters: dict[str, Any]
    channels: dict[str, Path]
    hosts: tuple[Host, ...]
    host: str
    instance_type: str
    checkpoints: Path | None
    instance_types: frozenset[str] = frozenset()

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

    def refuse_unlike_hosts(self) -> None:
        """Raises UserError where the job has instance groups of different kinds."""
        if len(self.instance_types) > 1:
            raise UserError(
                f"the job has instance groups of different kinds, {' and '.join(sorted(self.instance_types))}: its "
                "hosts share every batch evenly, so the fastest would wait for the slowest; give all groups one "
                "InstanceType, or InstanceType and InstanceCount instead of InstanceGroups"
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


def _hosts(resources: dict[str, Any], where: Path) -> tuple[tuple[Host, ...], str]:
    """The hosts in the order of their numbers, and the name of this one.

    Args:
        resources: of resourceconfig.json. Beside SageMaker's keys it may have `addresses` and `ports`, by host: where
            a host is reached whose name is not resolved, or has no address of its own.
        where: that file.

    Raises:
        UserError: it names no such hosts.
    """
    names = resources.get("hosts") or ["algo-1"]
    if not (isinstance(names, list) and all(isinstance(name, str) and name for name in names)):
        raise UserError(f"{where}: hosts must be a list of names, received {names!r}")
    current = resources.get("current_host") or (names[0] if len(names) == 1 else None)
    if not isinstance(current, str) or current not in names or len(set(names)) < len(names):
        raise UserError(f"{where}: current_host must be one of hosts, each named once, received {current!r} of {names}")
    addresses, ports = (resources.get(name) or {} for name in ("addresses", "ports"))
    if not (isinstance(addresses, dict) and all(isinstance(each, str) and each for each in addresses.values())):
        raise UserError(f"{where}: addresses must hold an address by host, received {addresses!r}")
    if not (isinstance(ports, dict) and all(type(each) is int and 0 < each < 1 << 16 for each in ports.values())):
        raise UserError(f"{where}: ports must hold a port by host, received {ports!r}")
    in_order = sorted(names, key=_host_number)
    return tuple(Host(name, addresses.get(name, name), ports.get(name, PORT)) for name in in_order), current


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
    hosts, current = _hosts(resources, base / "input/config/resourceconfig.json")
    groups = resources.get("instance_groups")
    kinds = {
        str(group.get("instance_type"))
        for group in (groups if isinstance(groups, list) else ())
        if isinstance(group, dict)
    }
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
        hosts=hosts,
        host=current,
        instance_type=str(resources.get("current_instance_type") or ""),
        checkpoints=checkpoints if checkpoint_config or checkpoints.is_dir() else None,
        instance_types=frozenset(kinds),
    )
