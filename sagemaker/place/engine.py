"""The Docker engine: the containers and networks of jobs, told by the labels that they were made with, never by name.

Standard library only, as everything that a runner imports.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LABELS, NETWORK = "ContainerLabels", "ContainerNetwork"  # keys of a record
RUNS_LABEL, JOB_LABEL, HOST_LABEL = "position-trainer.runs", "position-trainer.job", "position-trainer.host"
_ANSWER_SECONDS = 30
_REMOVAL_SECONDS = 20


class EngineSilent(Exception):
    """The engine cannot be asked; the message says why."""


def labels_of(runs: Path, name: str, start_id: str) -> dict[str, str]:
    """The labels of what is made for a job: the runs folder, the job, and the one start that made it."""
    return {RUNS_LABEL: str(runs), JOB_LABEL: name, "position-trainer.start": start_id}


def label_options(labels: dict[str, str]) -> list[str]:
    """Options that give labels to what docker makes."""
    return [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]


def _filters(labels: dict[str, str]) -> list[str]:
    return [part for name, value in labels.items() for part in ("--filter", f"label={name}={value}")]


def running_containers(record: dict[str, Any], host: str = "") -> list[str]:
    """Ids of the containers that run for a job, or for a host of it; none for a job that is no container.

    Raises:
        EngineSilent: the engine does not answer.
    """
    labels = record.get(LABELS)
    if not labels:
        return []
    return _docker("ps", "--quiet", "--no-trunc", *_filters(labels | ({HOST_LABEL: host} if host else {}))).split()


def signal_container(record: dict[str, Any], host: str, number: int) -> bool:
    """Sends a signal to the container of a job's host; returns whether it got it."""
    try:
        found = running_containers(record, host)
        if found:
            _docker("kill", "--signal", str(int(number)), *found)
    except EngineSilent:
        return False
    return bool(found)


def create_network(record: dict[str, Any], is_running: Callable[[str], bool]) -> None:
    """Makes the network that a job's record names, and removes those that jobs which run no more left behind.

    Args:
        record: the job's; where it names no network, nothing is done.
        is_running: whether a job of the same runs folder runs, by its name.

    Raises:
        EngineSilent: the engine does not answer, or makes none.
    """
    if NETWORK not in record:
        return
    labels = record[LABELS]
    for line in _networks({RUNS_LABEL: labels[RUNS_LABEL]}, f'{{{{.ID}}}} {{{{.Label "{JOB_LABEL}"}}}}'):
        network, _, job = line.partition(" ")
        if job and not is_running(job):
            with contextlib.suppress(EngineSilent):  # it has containers: then it is not left behind
                _docker("network", "rm", network)
    internal = ["--internal"] if record[NETWORK]["Internal"] else []
    _docker("network", "create", *internal, *label_options(labels), record[NETWORK]["Name"])


def remove_all(record: dict[str, Any]) -> None:
    """Removes the containers of a job that has ended, which are there where their docker command was killed, and then
    its network.

    Raises:
        EngineSilent: the engine does not answer, or refuses.
    """
    labels = record.get(LABELS)
    if not labels:
        return
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while True:
        containers = _docker("ps", "--all", "--quiet", "--no-trunc", *_filters(labels)).split()
        networks = _networks(labels, "{{.ID}}") if NETWORK in record else []
        try:
            if containers:
                _docker("rm", "--force", *containers)
            if networks:
                _docker("network", "rm", *networks)
            return
        except EngineSilent:  # such as of a container that is being removed already
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _networks(labels: dict[str, str], form: str) -> list[str]:
    return _docker("network", "ls", "--no-trunc", *_filters(labels), "--format", form).splitlines()


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
