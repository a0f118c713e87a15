"""How the hosts of a job find each other when they start, and leave together when they end."""

import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import ml
from ml.errors import UserError, printable
from ml.host import Host
from ml.learn.hosts import Hosts
from ml.learn.links import HELLO, REFUSED, WELCOME, Link, receive_frame, send_frame
from ml.log import say

_RETRY = 0.5  # seconds between two attempts to find or reach a host
_HELLO_SECONDS, _HELLO_BYTES = 10.0, 4096  # for a connection to say who it is
_STRANGE_ANSWERS = 3  # of what listens on the first host's port, until it counts as another program


class StoppedWaiting(Exception):
    """The process was asked to end before its hosts had found each other."""


@contextlib.contextmanager
def joined(
    hosts: Sequence[Host],
    current: str,
    job: str,
    seconds: float,
    stop: Callable[[], bool],
    end: Callable[[str], NoReturn],
) -> Iterator[Hosts]:
    """The hosts of a job, once they have found each other; at the end of the block they wait for each other.

    Args:
        hosts: all of them, in the order of their numbers.
        current: name of this one.
        job: the job's name, the same on all.
        seconds: to wait until all names are resolved and all hosts are there.
        stop: whether to give up waiting.
        end: ends this process with a message; called from a thread when another host dies or fails.

    Raises:
        UserError: a host cannot be found, is not there in time, or the first one's port is taken.
        StoppedWaiting: it was asked to.
    """
    if len(hosts) == 1:
        yield Hosts()
        return
    deadline = _Deadline(seconds, stop)
    number = [host.name for host in hosts].index(current)
    for host in hosts:
        _wait_for_name(host, deadline)
    links = _accepted(hosts, job, deadline) if number == 0 else [_connected(hosts[0], current, job, deadline)]
    members = Hosts(hosts, number, links, end, seconds)
    say(f"host {current}, {number + 1} of {len(hosts)}: connected")
    try:
        yield members
    except BaseException as error:
        members.fail(error)
        raise
    members.leave()


@dataclasses.dataclass
class _Deadline:
    """How long to wait for other hosts."""

    seconds: float
    stop: Callable[[], bool]

    def __post_init__(self):
        self._end = time.monotonic() + self.seconds

    def passed(self) -> bool:
        """Whether it is over, after a moment of waiting."""
        if self.stop():
            raise StoppedWaiting
        time.sleep(_RETRY)
        return time.monotonic() >= self._end


def _wait_for_name(host: Host, deadline: _Deadline) -> None:
    while True:
        try:
            socket.getaddrinfo(host.address, host.port, type=socket.SOCK_STREAM)
            return
        except (OSError, ValueError) as error:  # ValueError: no name at all
            if deadline.passed():
                raise UserError(
                    f"host {host.name} of the job cannot be found: the name {host.address} was not resolved within "
                    f"{deadline.seconds:g} s (hosts_seconds): {error}; see whether that host has started"
                ) from None


def _accepted(hosts: Sequence[Host], job: str, deadline: _Deadline) -> list[Link]:
    """The first host's connections from all others, in the order of the hosts."""
    first, *others = hosts
    missing = {host.name for host in others}
    found: dict[str, Link] = {}
    with _listening(first) as listener:
        listener.settimeout(_RETRY)
        while missing:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if deadline.passed():
                    raise UserError(
                        f"{', '.join(host.name for host in others if host.name in missing)} of the job's "
                        f"{len(hosts)} hosts did not connect to {first.name}, port {first.port}, within "
                        f"{deadline.seconds:g} s (hosts_seconds); see that host's log, and whether the network lets "
                        "the job's hosts reach each other"
                    ) from None
                continue
            if name := _introduced(connection, job, missing):
                missing.remove(name)
                found[name] = Link(name, connection)
    return [found[host.name] for host in others]


def _listening(first: Host) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(first.address, first.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(
            f"{first.name} cannot listen on port {first.port} of {address[0]}, which the job's hosts need: "
            f"{error.strerror}; stop the program that uses it"
        ) from None
    return listener


def _introduced(connection: socket.socket, job: str, missing: set[str]) -> str:
    """The name of the host that has connected; empty, and the connection closed, where it is none that is missing."""
    name, refused = "", ""
    try:
        connection.settimeout(_HELLO_SECONDS)
        kind, content = receive_frame(connection, _HELLO_BYTES)
        hello = json.loads(content) if kind == HELLO else {}
        name = hello["host"]
        for what, ours in (("job", job), ("version", ml.__version__)):
            if hello[what] != ours:
                refused = f"{what} {ours} runs here and not {hello[what]}"
        if name not in missing:
            refused = f"{name} is no host of the job, or has connected before"
        send_frame(connection, REFUSED if refused else WELCOME, refused.encode("utf-8"))
    except (OSError, EOFError, ValueError, LookupError, TypeError):
        refused = "it is no host of a job"
    if refused:
        connection.close()
    return "" if refused else name


def _connected(first: Host, current: str, job: str, deadline: _Deadline) -> Link:
    """A host's connection to the first one."""
    hello = json.dumps({"job": job, "host": current, "version": ml.__version__}).encode("utf-8")
    strange = 0
    while True:
        try:
            connection = socket.create_connection((first.address, first.port), timeout=_HELLO_SECONDS)
        except OSError as error:
            if deadline.passed():
                raise UserError(
                    f"{first.name} does not answer at {first.address}, port {first.port}, within "
                    f"{deadline.seconds:g} s (hosts_seconds): {error}; see that host's log, and whether the network "
                    "lets the job's hosts reach each other"
                ) from None
            continue
        try:
            send_frame(connection, HELLO, hello)
            kind, content = receive_frame(connection, _HELLO_BYTES)
        except (OSError, EOFError, ValueError):
            kind, content = b"", b""
        if kind == WELCOME:
            return Link(first.name, connection)
        # On loopback a connection may also have met itself, where nobody listens yet.
        own = connection.getsockname() == _peer_of(connection)
        connection.close()
        strange += not own
        if strange == _STRANGE_ANSWERS or deadline.passed():
            told = printable(content.decode("utf-8", "replace")) if kind == REFUSED else "it is another program"
            raise UserError(f"what listens on port {first.port} of {first.name} is not this job's: {told}")


def _peer_of(connection: socket.socket) -> Any:
    try:
        return connection.getpeername()
    except OSError:
        return None
