"""A checkpoint as a file: an uncompressed .npz (arrays, and one JSON text) and its SHA-256 after it.

Nothing in it is executed on reading (no pickle), it is read only where it is a regular file of a plausible size, and
what it is of can be looked up without reading the arrays.
"""

import dataclasses
import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ml.errors import UserError

_DIGEST = 64  # characters of a SHA-256
_JSON = "_json.npy"  # the member with the JSON text
_LARGEST_JSON = 1 << 28


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two steps.

    Attributes:
        identity: what the training is of (settings, data): a resume must have the same.
        progress: where it is: epoch, step, sums, history; plain JSON.
        arrays: weights, optimizer slots, best weights, by name.
    """

    identity: dict[str, Any]
    progress: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write_checkpoint(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Writes a checkpoint as it is made, without a copy of it in memory."""
    text = json.dumps({"identity": checkpoint.identity, "progress": checkpoint.progress})
    hashing = _HashingWriter(file)
    arrays: dict[str, Any] = checkpoint.arrays | {"_json": np.frombuffer(text.encode("utf-8"), np.uint8)}
    np.savez(hashing, **arrays)
    file.write(hashing.digest.hexdigest().encode("ascii"))


def read_labels(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The identity and the progress that a file names; its arrays are neither read nor checked.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is no checkpoint.
    """
    with _opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                member = archive.getinfo(_JSON)
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > _LARGEST_JSON:
                    raise ValueError("it is compressed, or names too much")
                text = np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False).tobytes()
            return _labels(text)
        except Exception as error:
            raise ValueError(f"it is no checkpoint: {type(error).__name__}: {error}") from error


def read_checkpoint(path: Path, largest: int) -> Checkpoint:
    """The checkpoint in a file, its checksum compared.

    Args:
        path: the file.
        largest: bytes that it cannot exceed.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is not what `write_checkpoint` writes, or damaged, or larger.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"it has {size:,} bytes, and one of this training has at most {largest:,}")
        content = memoryview(file.read(size))
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode("ascii") != digest:
        raise ValueError("its checksum does not match")
    # A checksum keeps damage out, not malice: an archive that somebody made can hold anything.
    try:
        members = zipfile.ZipFile(io.BytesIO(body)).infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, and none that was written here is")
        if sum(member.file_size for member in members) > len(body):
            raise ValueError("it names more than it holds")
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = dict(archive)
        identity, progress = _labels(arrays.pop("_json").tobytes())
    except Exception as error:
        raise ValueError(f"it is no checkpoint: {type(error).__name__}: {error}") from error
    return Checkpoint(identity, progress, arrays)


def _labels(text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    labels = json.loads(text.decode("utf-8"))
    identity, progress = labels["identity"], labels["progress"]
    if not (isinstance(identity, dict) and isinstance(progress, dict)):
        raise ValueError("it names no training")
    return identity, progress


def _opened(path: Path) -> BinaryIO:
    """A regular file, open for reading; a pipe would block, a device or what a link leads to may never end.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    if path.is_symlink():
        raise OSError("it is a link")
    # O_NONBLOCK, since opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file")
    return os.fdopen(descriptor, "rb")


class _HashingWriter(io.RawIOBase):
    """Passes on what is written and hashes it; cannot seek, so that nothing is written twice."""

    def __init__(self, file: BinaryIO):
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content) -> int:
        self.digest.update(content)
        return self._file.write(content)


def refuse_longer(progress: Mapping[str, Any], epochs: int) -> None:
    """Refuses the progress of a training that is further than one of so many epochs can be.

    Raises:
        UserError: it is.
    """
    if (progress["epoch"], progress["step"]) > (epochs, 0):
        raise UserError(
            f"the checkpoint is of a longer training, in epoch {progress['epoch'] + 1}, and epochs is {epochs}; set it "
            "to more, or use another checkpoint folder"
        )
