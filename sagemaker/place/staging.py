"""Starting a job whole or not at all: its folder is made under another name and gets its own in one step.

Whatever ends a start before that, a full disk, a lost network, Ctrl-C, leaves no folder and no taken name; what a
killed start leaves has no job's name and is removed by the next one. Standard library only.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ml.errors import UserError
from ml.files import sync_folder
from place.record import JOB_LOCK, TUNING_RECORD, is_locked, take_lock

_PREFIX = ".starting-"
_REMOVED = ".removed-"
_ABANDONED_SECONDS = 60  # a start takes its lock well before


class Start:
    """A job that is being started.

    Attributes:
        folder: where its files are made.
        final: where they will be.
        lock: descriptor of the job's lock; the process that owns the job inherits it.
    """

    def __init__(self, folder: Path, final: Path, lock: int):
        self.folder, self.final, self.lock = folder, final, lock
        self._running = False

    def commit(self) -> None:
        """Gives the folder the job's name.

        Raises:
            UserError: somebody else took the name meanwhile.
        """
        try:
            self.folder.rename(self.final)
        except OSError:
            refuse_taken(self.final)
            raise
        self.folder = self.final
        sync_folder(self.final.parent)

    def hand_over(self) -> None:
        """The process that owns the job has begun: its folder is no longer this process's to remove."""
        self._running = True
        os.close(self.lock)

    def undo(self) -> None:
        """Removes what was made, unless the job runs."""
        if not self._running:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self.lock)


def refuse_taken(folder: Path) -> None:
    """Refuses a name that is taken.

    Raises:
        UserError: there is something in the folder's place.
    """
    if os.path.lexists(folder):
        tuning = (folder / TUNING_RECORD).is_file()
        way_on = f", or go on with it by tune --resume {folder.name}" if tuning else ""
        raise UserError(f"there is a job {folder.name} already, in {folder}; choose another --name{way_on}")


@contextlib.contextmanager
def staged(runs: Path, name: str) -> Iterator[Start]:
    """A folder for the block to fill, `commit` and `hand_over`; where the block fails, nothing of it stays.

    Raises:
        UserError: the name is taken, or the disk refuses.
    """
    final = runs / name
    refuse_taken(final)
    started = None
    try:
        runs.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(runs)
        started = _begin(runs, final)
        yield started
    except BaseException as error:
        if started:
            started.undo()
        if isinstance(error, OSError):
            where = error.filename or (started.folder if started else runs)
            raise UserError(
                f"{name} cannot be started: {error.strerror or error} ({where}); nothing of it was left behind"
            ) from error
        raise


def remove(folder: Path) -> None:
    """Removes a job's folder: its name is free in one step, even where the removal itself is killed."""
    unnamed = folder.with_name(f"{_REMOVED}{uuid.uuid4().hex}")
    folder.rename(unnamed)
    shutil.rmtree(unnamed, ignore_errors=True)


def _begin(runs: Path, final: Path) -> Start:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=runs))
    try:
        folder.chmod(0o755)
        lock = take_lock(folder)
        assert lock is not None  # noqa: S101 - the folder was made above, so nobody else holds it
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Start(folder, final, lock)


def _remove_abandoned(runs: Path) -> None:
    """Removes what starts and removals that were killed have left."""
    for folder in runs.glob(f"{_REMOVED}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in runs.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS
            if old and (folder / JOB_LOCK).exists() and not is_locked(folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def interrupts_delayed() -> Iterator[list[int]]:
    """Keeps Ctrl-C from ending a block between two steps that belong together; the list says whether it came."""
    came: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield came
        return
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, previous)
