"""The hosts of a job: what they tell each other, what they decide together, and how the death of one ends it on all.

Each host keeps one TCP connection with the first one (algo-1), over which everything of this module goes. TensorFlow's
own connections carry gradients and first weights.

A process that dies closes its connection, which the others see at once; a machine that is gone falls silent, which they
see after SILENCE seconds. Whoever sees it ends its own process from a thread, since the main one may be in a collective
that never returns.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np

from ml.errors import UserError, one_line, printable
from ml.host import Host
from ml.learn.links import BEAT, DONE, FAILED, MESSAGE, SILENCE, STOP, Link, Message, decoded, encoded

_BEAT_SECONDS = 5.0  # between signs of life
# TensorFlow's errors, by name, where another process of a collective is gone.
_OF_COLLECTIVES = {"UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError", "InternalError"}

Item = TypeVar("Item")


class Hosts:
    """The hosts of a job as one of them sees them; `Hosts()` is a job of one host.

    What is told or decided together is a call that every host makes, all of them in the same order.

    Args:
        hosts: all of them, in the order of their numbers.
        number: of this one, from 0.
        links: to all others on the first host; on another the one to the first.
        end: ends this process with a message.
        seconds: to wait for the others at most where they are to connect.

    Attributes:
        names, addresses: of all hosts.
        number, seconds: as given.
        count: of all hosts.
        first: whether this is the one that reports, writes checkpoints, saves and publishes.
    """

    def __init__(
        self,
        hosts: Sequence[Host] = (Host("algo-1", "localhost"),),
        number: int = 0,
        links: Sequence[Link] = (),
        end: Callable[[str], NoReturn] | None = None,
        seconds: float = 600.0,
    ):
        self.names, self.addresses = [host.name for host in hosts], [host.address for host in hosts]
        self.number, self.count, self.first = number, len(hosts), number == 0
        self.seconds = seconds
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
            self._send(self._links[0], MESSAGE, encoded(f"{what} {self._turn}", message))
            return []
        return [message, *(self._received(link, what) for link in self._links)]

    def from_first(self, what: str, message: Message) -> Message:
        """What the first host tells; what the others give is not used."""
        self._turn += 1
        if not self.first:
            return self._received(self._links[0], what)
        content = encoded(f"{what} {self._turn}", message) if self._links else b""
        for link in self._links:
            self._send(link, MESSAGE, content)
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
                    self._send(link, STOP)
            return stop() or self._stop_heard

        return asked

    def fail(self, error: BaseException) -> None:
        """Tells the others why this host fails; they end with the same reason."""
        if not self._links:
            return
        if type(error).__name__ in _OF_COLLECTIVES:
            # Where the reason is another host's death, the thread that hears of it ends the process meanwhile.
            time.sleep(SILENCE + _BEAT_SECONDS)
        if self._over:
            return
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
            self._send(link, DONE)
        if not self.first:
            for link in self._links:
                link.done.wait()

    def _received(self, link: Link, what: str) -> Message:
        tag, message = decoded(link.inbox.get())
        if tag != f"{what} {self._turn}":
            raise RuntimeError(f"{link.name} is at {tag!r} and {self.name} at '{what} {self._turn}'")
        return message

    def _send(self, link: Link, kind: bytes, content: bytes = b"") -> None:
        try:
            link.send(kind, content)
        except OSError as error:
            if self._over:
                return
            time.sleep(_BEAT_SECONDS)  # the thread that listens may be reading why the other host failed
            self._lost(link, error)

    def _live(self) -> None:
        """Gives signs of life."""
        while not self._over:
            for link in self._links:
                with contextlib.suppress(OSError):  # whoever listens will see it
                    link.send(BEAT)
            time.sleep(_BEAT_SECONDS)

    def _listen(self, link: Link) -> None:
        try:
            while True:
                kind, content = link.receive()
                if kind == MESSAGE:
                    link.inbox.put(content)
                elif kind == STOP:
                    self._stop_heard = True
                    for other in self._links if self.first else ():
                        if other is not link:
                            self._send(other, STOP)
                elif kind == FAILED and not self._over:
                    self._end_all(printable(content.decode("utf-8", "replace")))
                elif kind == DONE:
                    self._over = self._over or not self.first
                    link.done.set()
        except (OSError, EOFError, ValueError) as error:
            self._lost(link, error)

    def _lost(self, link: Link, error: Exception) -> None:
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
                link.send(FAILED, text.encode("utf-8"))


ONE_HOST = Hosts()
