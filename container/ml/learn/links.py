"""A connection between two hosts of a job: frames of a kind and a content, the longest of which is a message.

A message is JSON, and arrays without pickles, so that reading one runs no code.
"""

import io
import json
import queue
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

SILENCE = 40.0  # seconds without a sign of life until a host counts as dead

# The kinds of frames.
HELLO, WELCOME, REFUSED, MESSAGE, BEAT, STOP, FAILED, DONE = (bytes([each]) for each in b"hwrmbsfd")

_LARGEST = 1 << 36  # bytes of a frame; a longer one is none of ours
_PIECE = 1 << 20  # bytes sent at once, so that SILENCE is a limit on a piece and not on a whole message
_HEAD = struct.Struct(">cQ")  # of a frame: its kind and its length


class Message(NamedTuple):
    """What a host tells: what JSON holds, and arrays by name."""

    values: Any
    arrays: Mapping[str, np.ndarray] = {}


class Link:
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
        """Sends a frame; any thread may."""
        with self._lock:
            send_frame(self._connection, kind, content)

    def receive(self) -> tuple[bytes, bytes]:
        """The next frame's kind and content."""
        return receive_frame(self._connection)


def send_frame(connection: socket.socket, kind: bytes, content: bytes) -> None:
    """Sends a frame, a piece at a time."""
    frame = memoryview(_HEAD.pack(kind, len(content)) + content)
    while frame:
        frame = frame[connection.send(frame[:_PIECE]) :]


def receive_frame(connection: socket.socket, largest: int = _LARGEST) -> tuple[bytes, bytes]:
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


def encoded(tag: str, message: Message) -> bytes:
    """A message, and what it is about, as the content of a frame."""
    text = json.dumps({"tag": tag, "values": message.values}).encode("utf-8")
    arrays = io.BytesIO()
    if message.arrays:
        named: dict[str, Any] = dict(message.arrays)
        np.savez(arrays, **named)
    return struct.pack(">I", len(text)) + text + arrays.getvalue()


def decoded(content: bytes) -> tuple[str, Message]:
    """What `encoded` made a content of."""
    (length,) = struct.unpack_from(">I", content)
    told, rest = json.loads(content[4 : 4 + length]), content[4 + length :]
    arrays: dict[str, np.ndarray] = {}
    if rest:
        with np.load(io.BytesIO(rest), allow_pickle=False) as archive:
            arrays = dict(archive)
    return told["tag"], Message(told["values"], arrays)
