"""The hosts of a job on this machine, each a process or a container that is to think it is a machine of its own.

algo-1 has the job's folder; each other host has one like it, hosts/algo-2, hosts/algo-3 and so on, inside. Standard
library only, as everything that a runner imports.
"""

import contextlib
import filecmp
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from request import FIRST_HOST

HOSTS = "Hosts"  # key of a record: how each host was started and ended, algo-1 first
LOOPBACK = "127.0.0.1"

_MERGED = ("model", "output/data", "output/tensorboard", "checkpoints")  # what SageMaker brings to S3

_Item = TypeVar("_Item")


class Host(NamedTuple):
    """A host of a job that is about to be started.

    Attributes:
        name: algo-1, algo-2, ...
        folder: its own, laid out like /opt/ml.
        cores: the CPU cores that it may use; empty: all.
        gpus: the GPUs that it may use; None: all.
    """

    name: str
    folder: Path
    cores: list[int]
    gpus: list[str] | None


def folder_of_host(folder: Path, host: str) -> Path:
    """A host's folder inside the job's."""
    return folder if host == FIRST_HOST else folder / "hosts" / host


def host_names_in(record: dict[str, Any]) -> list[str]:
    """The hosts that a record says were started; algo-1 where it does not say."""
    return [host["HostName"] for host in record.get(HOSTS, ())] or [FIRST_HOST]


def machine_cores() -> list[int]:
    """The CPU cores that this process may use; empty where the system does not tell, as on a Mac."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def machine_gpus() -> list[str]:
    """The NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES, where it is set, leaves to this process."""
    there = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None else [gpu for gpu in visible.split(",") if gpu in there]


def shares(items: Sequence[_Item], count: int) -> list[list[_Item]]:
    """Items dealt out into `count` lists; some have the same item where there are too few."""
    items = list(items)
    return [items[slot::count] or items[slot % len(items) :][:1] if items else [] for slot in range(count)]


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def merge(folder: Path, record: dict[str, Any]) -> list[str]:
    """Brings what the hosts left into the job's model/, output/ and checkpoints/, as SageMaker does it in S3.

    A file that algo-1, or a host before, has already is kept; the other one stays in its host's folder.

    Returns:
        A sentence for each file that was not brought because it differs, or cannot be.
    """
    told = []
    for host in host_names_in(record)[1:]:
        own = folder_of_host(folder, host)
        for part in _MERGED:
            for above, _, names in os.walk(own / part):
                for path in (Path(above) / name for name in sorted(names)):
                    target = folder / path.relative_to(own)
                    try:
                        _bring(path, target)
                    except (OSError, _Differs) as error:
                        told.append(f"{path} is not in {target.parent}, since {error}")
    return told


class _Differs(Exception):
    """There is another file of that name."""


def _bring(path: Path, target: Path) -> None:
    if os.path.lexists(target):
        links = path.is_symlink() and target.is_symlink() and path.readlink() == target.readlink()
        if not links and not (target.is_file() and filecmp.cmp(path, target, shallow=False)):
            raise _Differs("another host has left another file of that name")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(path, target, follow_symlinks=False)
