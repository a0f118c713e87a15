"""Checkpoints: everything that a resume needs, written so that a kill at any moment leaves a whole one.

A file is an uncompressed .npz (arrays, and one JSON text) and its SHA-256. It is written
under a temporary name, flushed to disk and renamed, since SageMaker uploads files while they are written.
Nothing in it is executed on reading: no pickle.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ml.errors import UserError

_KEPT = 2  # the newest, and the one before it in case the newest is damaged
_DIGEST = 64  # characters of a SHA-256
_TEMPORARY_PREFIX = ".writing-"


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


class CheckpointFolder:
    """The checkpoints of one job, under <folder>/<job name>/.

    Args:
        folder: the job's checkpoints folder.
        job_name: keeps jobs that share a folder or an S3 prefix apart.
    """

    def __init__(self, folder: Path, job_name: str):
        self._folder = folder / job_name

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and deletes all but the last two.

        Raises:
            OSError: the folder cannot be written; earlier checkpoints are untouched.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        numbers = [number for number, _ in self._files()]
        name = f"{max(numbers, default=0) + 1:08d}.ckpt"
        temporary = self._folder / f"{_TEMPORARY_PREFIX}{name}"
        try:
            with temporary.open("wb") as file:
                _write(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        for _, path in self._files()[:-_KEPT]:
            path.unlink(missing_ok=True)

    def load(
        self, identity: dict[str, Any], check: Callable[[Checkpoint], None] = lambda checkpoint: None
    ) -> Checkpoint | None:
        """The newest whole checkpoint; None where there is none.

        Args:
            identity: what is about to be trained.
            check: raises ValueError where a checkpoint does not fit what is about to be trained; it then
                counts as damaged. A UserError of its own goes to the caller.

        Raises:
            UserError: the checkpoint is of another training; the message shows the difference.
        """
        for _, path in reversed(self._files()):
            try:
                checkpoint = _decoded(path.read_bytes())
                if checkpoint.identity == identity:
                    check(checkpoint)
            except UserError:
                raise
            except (OSError, ValueError) as error:
                print(f"checkpoint {path} is damaged ({error}); trying the one before it", flush=True)
                if isinstance(error, ValueError):  # else it would count as one of the last two
                    with contextlib.suppress(OSError):
                        path.unlink()
                continue
            if checkpoint.identity != identity:
                raise UserError(
                    f"checkpoint {path} is of another training: "
                    f"{_difference(checkpoint.identity, identity)}; restore them, name another "
                    "job, or empty the folder"
                )
            return checkpoint
        return None

    def _files(self) -> list[tuple[int, Path]]:
        """Checkpoint files by number, oldest first."""
        found = ((re.fullmatch(r"(\d+)\.ckpt", path.name), path) for path in self._folder.glob("*.ckpt"))
        return sorted((int(match.group(1)), path) for match, path in found if match)


def _write(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Writes a checkpoint as it is made, without a copy of it in memory."""
    text = json.dumps({"identity": checkpoint.identity, "progress": checkpoint.progress})
    hashing = _HashingWriter(file)
    np.savez(hashing, **checkpoint.arrays, _json=np.frombuffer(text.encode("utf-8"), np.uint8))
    file.write(hashing.digest.hexdigest().encode("ascii"))


class _HashingWriter(io.RawIOBase):
    """Passes on what is written and hashes it; cannot seek, so that nothing is written twice."""

    def __init__(self, file: BinaryIO):
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content) -> int:
        self.digest.update(content)
        return self._file.write(content)


def _decoded(content: bytes) -> Checkpoint:
    """The checkpoint in a file's bytes.

    Raises:
        ValueError: they are not what `_write` writes.
    """
    content = memoryview(content)
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode("ascii") != digest:
        raise ValueError("its checksum does not match")
    # A checksum keeps damage out, not malice: an archive that somebody made can hold anything.
    try:
        if any(
            member.compress_type != zipfile.ZIP_STORED or member.file_size > len(body)
            for member in zipfile.ZipFile(io.BytesIO(body)).infolist()
        ):
            raise ValueError("it is compressed, and none that was written here is")
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = dict(archive)
        text = json.loads(arrays.pop("_json").tobytes().decode("utf-8"))
        identity, progress = text["identity"], text["progress"]
    except Exception as error:
        raise ValueError(f"it is no checkpoint: {type(error).__name__}: {error}") from error
    if not (isinstance(identity, dict) and isinstance(progress, dict)):
        raise ValueError("it is no checkpoint: it names no training")
    return Checkpoint(identity, progress, arrays)


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    return ", ".join(f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}" for name in names)
