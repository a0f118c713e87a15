"""The Docker engine, asked about the containers of jobs: by the labels that they got at their start, never by name.

Standard library only, as everything that a runner imports.
"""

import subprocess
from pathlib import Path
from typing import Any

LABELS = "ContainerLabels"  # key of a record
_ANSWER_SECONDS = 30


class EngineSilent(Exception):
    """The engine cannot be asked; the message says why."""


def labels_of(runs: Path, name: str, start_id: str) -> dict[str, str]:
    """The labels of a job's container: the runs folder, the job, and the one start that made it."""
    return {
        "position-trainer.runs": str(runs),
        "position-trainer.job": name,
        "position-trainer.start": start_id,
    }


def running_containers(record: dict[str, Any]) -> list[str]:
    """Ids of the containers that run for a job; none for a job that is no container.

    Raises:
        EngineSilent: the engine does not answer.
    """
    labels = record.get(LABELS)
    if not labels:
        return []
    filters = [part for name, value in labels.items() for part in ("--filter", f"label={name}={value}")]
    return _docker("ps", "--quiet", "--no-trunc", *filters).split()


def signal_containers(record: dict[str, Any], number: int) -> bool:
    """Sends a signal to a job's containers; returns whether one got it."""
    try:
        found = running_containers(record)
        if found:
            _docker("kill", "--signal", str(int(number)), *found)
    except EngineSilent:
        return False
    return bool(found)


def _docker(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, check=True, timeout=_ANSWER_SECONDS
        ).stdout
    except FileNotFoundError:
        raise EngineSilent("the docker command is not installed") from None
    except subprocess.TimeoutExpired:
        raise EngineSilent(f"the Docker engine has not answered for {_ANSWER_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        raise EngineSilent(" ".join(error.stderr.split())) from None
