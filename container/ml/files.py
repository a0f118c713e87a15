"""One way to write a file, or several together: whole or not at all, and still there after a power loss."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_STAGED, _READY, _REPLACED = ".writing", ".replacing", ".replaced"


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, a kill or a power loss sees the old content or the new one.

    The content goes to a temporary name in the same folder, is synced to disk and renamed, and the folder is synced.

    Args:
        path: the file; its folder is made where it is missing.
        content: bytes, or text that is written as UTF-8 with its line ends as they are.

    Raises:
        OSError: it cannot be written; what was there before is untouched. Where only the folder's sync fails, the new
            content is there and may not outlive a power loss.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{uuid.uuid4().hex[:12]}")  # not made from the name, which may be long
    try:
        _write_synced(temporary, content)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise
    sync_folder(path.parent)


def write_together(folder: Path, contents: Iterable[tuple[str, bytes | str]]) -> None:
    """Replaces several files and folders of a folder together: afterwards all are new, or all are as before.

    Everything is first written and synced in a folder beside its target. Then what was there is moved aside, what is
    new is moved in, and a failure on the way moves both back. A kill between these moves is made good by the next
    call, or by `finish_replacing`.

    Args:
        folder: made where it is missing. What it holds under other names stays.
        contents: (path below the folder, content); a folder `1` of `1/a` and `1/b` is replaced as a whole. May be a
            generator, so that only one content at a time is in memory.

    Raises:
        OSError: they cannot be written.
    """
    finish_replacing(folder)
    staged, names = folder / _STAGED, set()
    try:
        for name, content in contents:
            path = staged / name
            names.add(Path(name).parts[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(path, content)
        for parent, _, _ in os.walk(staged):
            sync_folder(Path(parent))
        staged.rename(folder / _READY)
        _move_in(folder, names)
    except BaseException:
        _remove(staged)
        raise


def finish_replacing(folder: Path) -> None:
    """Finishes or undoes what a kill left of writing in a folder; does nothing where it left nothing.

    Raises:
        OSError: it cannot be finished.
    """
    ready = folder / _READY
    if ready.is_dir() and (names := {path.name for path in ready.iterdir()}):
        _move_in(folder, names)
    for left in (*folder.glob(f"{_STAGED}*"), ready, folder / _REPLACED):
        _remove(left)


def _move_in(folder: Path, names: set[str]) -> None:
    """Moves everything in the ready folder, which are these names, to its place, or, where that fails, back."""
    ready, replaced = folder / _READY, folder / _REPLACED
    try:
        replaced.mkdir(exist_ok=True)
        for name in sorted(names):
            if (folder / name).exists():
                (folder / name).rename(replaced / name)
            (ready / name).rename(folder / name)
        sync_folder(folder)
    except BaseException:
        before = [path.name for path in replaced.iterdir()] if replaced.exists() else []
        for name in names.union(before):
            if not (ready / name).exists():
                (folder / name).rename(ready / name)
        for name in before:
            (replaced / name).rename(folder / name)
        _remove(replaced)
        _remove(ready)
        raise
    _remove(replaced)
    _remove(ready)


def _remove(path: Path) -> None:
    """Removes a file or a folder as well as it can; what stays costs space and is removed by the next job."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _write_synced(path: Path, content: bytes | str) -> None:
    with path.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes renames and deletions in a folder last through a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all; numbers that JSON does not have (nan, infinity) become null."""
    write_whole(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON for a file; numbers that JSON does not have (nan, infinity) become null."""
    return json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
