"""One way to write a file: whole or not at all, and still there after a power loss."""

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, a kill or a power loss sees the old content or the new one.

    The content goes to a temporary name in the same folder, is synced to disk and renamed, and the folder is synced.

    Args:
        path: the file; its folder is made where it is missing.
        content: bytes, or text that is written as UTF-8 with its line ends as they are.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{uuid.uuid4().hex[:12]}")  # not made from the name, which may be long
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and deletions in a folder last through a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all; numbers that JSON does not have (nan, infinity) become null."""
    write_whole(path, json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
