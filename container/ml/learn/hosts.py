"""The hosts of a job: what they tell each other, what they decide together, and how the death of one ends it on all.

Each host keeps one TCP connection with the first one (algo-1), over which everything of this module goes. TensorFlow's
own connections carry gradients and first weights. A message is JSON, and arrays without pickles, so that reading one
runs no code.

A process that dies closes its connection, which the others see at once; a machine that is gone falls silent, which they
see after SILENCE seconds. Whoever sees it ends its own process from a thread, since the main one may be in a collective
that never returns.
"""

import contextlib
import dataclasses
import io
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

import ml
from ml.errors import UserError, one_line, printable
from ml.host import Host
from ml.log import say

BEAT, SILENCE = 5.0, 40.0  # seconds between signs of life, and without one until a host counts as dead

_RETRY = 0.5  # seconds between two attempts to find or reach a host
_HELLO_SECONDS, _HELLO_BYTES = 10.0, 4096  # for a connection to say who it is
_STRANGE_ANSWERS = 3  # of what listens on the first host's port, until it counts as another program
_LARGEST = 1 << 36  # bytes of a frame; a longer one is none of ours
_PIECE = 1 << 20  # bytes sent at once, so that SILENCE is a limit on a piece and not on a whole message
# TensorFlow's errors, by name, where another process of a collective is gone.
_OF_COLLECTIVES = {"UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError", "InternalError"}
_HEAD = struct.Struct(">cQ")  # of a frame: its kind and its length
_HELLO, _WELCOME, _REFUSED, _MESSAGE, _BEAT, _STOP, _FAILED, _DONE = (bytes([each]) for each in b"hwrmbsfd")

Item = TypeVar("Item")


class Message(NamedTuple):
    """What a host tells: what JSON holds, and arrays by name."""

    values: Any
    arrays: Mapping[str, np.ndarray] = {}


class StoppedWaiting(Exception):
    """The process was asked to end before its hosts had found each other."""


class Hosts:
    """The hosts of a job as one of them sees them; `Hosts()` is a job of one host.

    What is told or decided together is a call that every host makes, all of them in the same order.

    Args:
        hosts: all of them, in the order of their numbers.
        number: of this one, from 0.
        links: to all others on the first host; on another the one to the first.
        end: ends this process with a message.

    Attributes:
        names, addresses: of all hosts.
        number: as given.
        count: of all hosts.
        first: whether this is the one that reports, writes checkpoints, saves and publishes.
    """

    def __init__(
        self,
        hosts: Sequence[Host] = (Host("algo-1", "localhost"),),
        number: int = 0,
        links: "Sequence[_Link]" = (),
        end: Callable[[str], NoReturn] | None = None,
    ):
        self.names, self.addresses = [host.name for host in hosts], [host.address for host in hosts]
        self.number, self.count, self.first = number, len(hosts), number == 0
        self._links, self._end = links, end
        self._turn = 0  # of what is told together, to find out a host that went another way
        self._over = self._stop_told = self._stop_heard = False
        for link in links:
            threading.Thread(target=self._listen, args=(link,), daemon=True).start()
        if links:
            threading.Thread(target=self._live, daemon=True).start()

    @property
    def name(self) -> str:
        """The name of the one that this process is."""
        return self.names[self.number]

    def gathered(self, what: str, message: Message) -> list[Message]:
        """What each host tells, in the order of the hosts, on the first one; on the others nothing."""
        self._turn += 1
        if not self.first:
            self._send(self._links[0], _MESSAGE, _encoded(f"{what} {self._turn}", message))
            return []
        return [message, *(self._received(link, what) for link in self._links)]

    def from_first(self, what: str, message: Message) -> Message:
        """What the first host tells; what the others give is not used."""
        self._turn += 1
        if not self.first:
            return self._received(self._links[0], what)
        content = _encoded(f"{what} {self._turn}", message) if self._links else b""
        for link in self._links:
            self._send(link, _MESSAGE, content)
        return message

    def exchanged(self, what: str, values: Any) -> list[Any]:
        """What each host tells, in the order of the hosts, on all of them: JSON."""
        told = [message.values for message in self.gathered(what, Message(values))]
        return self.from_first(what, Message(told)).values

    def any(self, what: str, flag: bool) -> bool:
        """Whether any host says so."""
        return flag if self.count == 1 else any(self.exchanged(what, flag))

    def summed(self, what: str, values: np.ndarray) -> np.ndarray:
        """The hosts' arrays added up, in the order of the hosts, so that every host has the same bits."""
        if self.count == 1:
            return values
        told = self.gathered(what, Message(None, {"values": values}))
        total = (
            sum((message.arrays["values"] for message in told[1:]), start=told[0].arrays["values"]) if told else None
        )
        return self.from_first(what, Message(None, {} if total is None else {"values": total})).arrays["values"]

    def compare(self, of_each: Mapping[str, Any]) -> None:
        """Refuses hosts that are not alike.

        Args:
            of_each: what must be the same on all, by its name in the message.

        Raises:
            UserError: it is not, on every host.
        """
        first, *others = self.exchanged("comparison", dict(of_each))
        for name, theirs in zip(self.names[1:], others, strict=True):
            for what in (what for what in first if theirs.get(what) != first[what]):
                self.leave()  # each host finds this out by itself and says it in its own words
                raise UserError(
                    f"{name} has other {what} than {self.names[0]} ({theirs.get(what)} and {first[what]}), and the "
                    "hosts of a job must have the same: give every host all files (FullyReplicated), and an "
                    "end_date where rows are added to the history meanwhile"
                )

    def shared_out(self, items: Sequence[Item]) -> list[Item]:
        """The part of this host of items that need nothing of each other, in their order.

        Each is one host's, the last one the first host's. What comes of them is brought together by `gathered`.
        """
        return list(items[::-1][self.number :: self.count][::-1])

    def deciding_together(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Whether this host or another is asked to end: one answer for all, which every host asks for."""
        return lambda: self.any("stop", stop())

    def hearing_of_stops(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Whether this host or another is asked to end; for work that hosts do apart."""

        def asked() -> bool:
            if stop() and not self._stop_told:
                self._stop_told = True
                for link in self._links:
                    self._send(link, _STOP)
            return stop() or self._stop_heard

        return asked

    def fail(self, error: BaseException) -> None:
        """Tells the others why this host fails; they end with the same reason."""
        if self._over or not self._links:
            return
        if type(error).__name__ in _OF_COLLECTIVES:
            time.sleep(SILENCE + BEAT)  # where the reason is another host's death, that ends the process meanwhile
        self._over = True
        text = f"{self.name} failed: {printable(str(error) if isinstance(error, UserError) else one_line(error))}"
        self._tell_of_failure(text)
        if self._end:  # where TensorFlow waits for other hosts before the process may end
            ending = threading.Timer(SILENCE, self._end, [text])
            ending.daemon = True
            ending.start()

    def leave(self) -> None:
        """Waits until every host has come to its end; one that dies before ends the job on all."""
        if self.first:
            for link in self._links:
                link.done.wait()
            self._over = True
        for link in self._links:
            self._send(link, _DONE)
        if not self.first:
            for link in self._links:
                link.done.wait()

    def _received(self, link: "_Link", what: str) -> Message:
        tag, message = _decoded(link.inbox.get())
        if tag != f"{what} {self._turn}":
            raise RuntimeError(f"{link.name} is at {tag!r} and {self.name} at '{what} {self._turn}'")
        return message

    def _send(self, link: "_Link", kind: bytes, content: bytes = b"") -> None:
        try:
            link.send(kind, content)
        except OSError as error:
            if self._over:
                return
            time.sleep(BEAT)  # the thread that listens may be reading why the other host failed
            self._lost(link, error)

    def _live(self) -> None:
        """Gives signs of life."""
        while not self._over:
            for link in self._links:
                with contextlib.suppress(OSError):  # whoever listens will see it
                    link.send(_BEAT)
            time.sleep(BEAT)

    def _listen(self, link: "_Link") -> None:
        try:
            while True:
                kind, content = link.receive()
                if kind == _MESSAGE:
                    link.inbox.put(content)
                elif kind == _STOP:
                    self._stop_heard = True
                    for other in self._links if self.first else ():
                        if other is not link:
                            self._send(other, _STOP)
                elif kind == _FAILED and not self._over:
                    self._end_all(printable(content.decode("utf-8", "replace")))
                elif kind == _DONE:
                    self._over = self._over or not self.first
                    link.done.set()
        except (OSError, EOFError, ValueError) as error:
            self._lost(link, error)

    def _lost(self, link: "_Link", error: Exception) -> None:
        if self._over:
            return
        why = (
            f"gave no sign of life for {SILENCE:g} s"
            if isinstance(error, TimeoutError)
            else "ended without a word (killed, out of memory, or its machine is gone)"
        )
        self._end_all(
            f"host {link.name} {why}, so the job ends on every host; a job on the same checkpoints goes on from the "
            "last one"
        )

    def _end_all(self, text: str) -> None:
        self._over = True
        if self.first:
            self._tell_of_failure(text)
        if self._end is None:
            raise RuntimeError(text)
        self._end(text)

    def _tell_of_failure(self, text: str) -> None:
        for link in self._links:
            with contextlib.suppress(OSError):
                link.send(_FAILED, text.encode("utf-8"))


ONE_HOST = Hosts()


class _Link:
    """A connection to another host.

    Attributes:
        name: the other host's.
        inbox: messages that have come.
        done: set once the other host has come to its end.
    """

    def __init__(self, name: str, connection: socket.socket):
        self.name, self._connection, self._lock = name, connection, threading.Lock()
        self.inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.done = threading.Event()
        connection.settimeout(SILENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind: bytes, content: bytes = b"") -> None:
        with self._lock:
            _send(self._connection, kind, content)

    def receive(self) -> tuple[bytes, bytes]:
        return _receive(self._connection)


def _send(connection: socket.socket, kind: bytes, content: bytes) -> None:
    frame = memoryview(_HEAD.pack(kind, len(content)) + content)
    while frame:
        frame = frame[connection.send(frame[:_PIECE]) :]


def _receive(connection: socket.socket, largest: int = _LARGEST) -> tuple[bytes, bytes]:
    """The next frame's kind and content.

    Raises:
        OSError, EOFError: the connection is over, or silent for too long.
        ValueError: it is no frame.
    """
    kind, length = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if length > largest:
        raise ValueError(f"a frame of {length:,} bytes")
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        piece = connection.recv(min(length - len(content), _PIECE))
        if not piece:
            raise EOFError("the connection was closed")
        content += piece
    return bytes(content)


def _encoded(tag: str, message: Message) -> bytes:
    text = json.dumps({"tag": tag, "values": message.values}).encode("utf-8")
    arrays = io.BytesIO()
    if message.arrays:
        named: dict[str, Any] = dict(message.arrays)
        np.savez(arrays, **named)
    return struct.pack(">I", len(text)) + text + arrays.getvalue()


def _decoded(content: bytes) -> tuple[str, Message]:
    (length,) = struct.unpack_from(">I", content)
    told, rest = json.loads(content[4 : 4 + length]), content[4 + length :]
    arrays: dict[str, np.ndarray] = {}
    if rest:
        with np.load(io.BytesIO(rest), allow_pickle=False) as archive:
            arrays = dict(archive)
    return told["tag"], Message(told["values"], arrays)


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
    members = Hosts(hosts, number, links, end)
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


def _accepted(hosts: Sequence[Host], job: str, deadline: _Deadline) -> list[_Link]:
    """The first host's connections from all others, in the order of the hosts."""
    first, *others = hosts
    missing = {host.name for host in others}
    found: dict[str, _Link] = {}
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
                found[name] = _Link(name, connection)
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
        kind, content = _receive(connection, _HELLO_BYTES)
        hello = json.loads(content) if kind == _HELLO else {}
        name = hello["host"]
        for what, ours in (("job", job), ("version", ml.__version__)):
            if hello[what] != ours:
                refused = f"{what} {ours} runs here and not {hello[what]}"
        if name not in missing:
            refused = f"{name} is no host of the job, or has connected before"
        _send(connection, _REFUSED if refused else _WELCOME, refused.encode("utf-8"))
    except (OSError, EOFError, ValueError, LookupError, TypeError):
        refused = "it is no host of a job"
    if refused:
        connection.close()
    return "" if refused else name


def _connected(first: Host, current: str, job: str, deadline: _Deadline) -> _Link:
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
            _send(connection, _HELLO, hello)
            kind, content = _receive(connection, _HELLO_BYTES)
        except (OSError, EOFError, ValueError):
            kind, content = b"", b""
        if kind == _WELCOME:
            return _Link(first.name, connection)
        # On loopback a connection may also have met itself, where nobody listens yet.
        own = connection.getsockname() == _peer_of(connection)
        connection.close()
        strange += not own
        if strange == _STRANGE_ANSWERS or deadline.passed():
            told = printable(content.decode("utf-8", "replace")) if kind == _REFUSED else "it is another program"
            raise UserError(f"what listens on port {first.port} of {first.name} is not this job's: {told}")


def _peer_of(connection: socket.socket) -> Any:
    try:
        return connection.getpeername()
    except OSError:
        return None
