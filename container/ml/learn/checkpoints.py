"""The checkpoints of jobs in a folder: written so that a kill at any moment leaves a whole one, and found by the
training that they belong to.

Each job writes in a subfolder of its own name, so that jobs that share a folder or an S3 prefix delete nothing of each
other's. A job goes on from the furthest checkpoint of the same training, whatever the name of the job that wrote it.
"""

import contextlib
import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.errors import UserError
from ml.files import sync_folder
from ml.learn.checkpoint_file import Checkpoint, read_checkpoint, read_labels, write_checkpoint
from ml.log import say

_KEPT = 2  # the newest, and the one before it in case the newest is damaged
_TEMPORARY_PREFIX = ".writing-"
_JOBS_NAMED = 3  # in the line about checkpoints that are not used
_SHARE = 0.01  # of the time, at most, is spent on checkpoints


@dataclasses.dataclass(frozen=True)
class _Found:
    """A checkpoint of the training that is about to begin, its arrays not yet read."""

    path: Path
    job: str  # empty: the job's own
    reached: tuple[int, int]  # epoch, step


class CheckpointFolder:
    """The checkpoints of one job, under <folder>/<job name>/<subfolder>, and those that other jobs left beside them.

    Args:
        folder: the job's checkpoints folder.
        job_name: the job's.
        subfolder: of an earlier fold; empty for the last one.
    """

    def __init__(self, folder: Path, job_name: str, subfolder: str = ""):
        self._shared, self._job, self._subfolder = folder, job_name, subfolder
        self._folder = folder / job_name / subfolder

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and deletes all but the last two of this job.

        Raises:
            OSError: the folder cannot be written; earlier checkpoints are untouched.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        numbers = [number for number, _ in _checkpoints_in(self._folder)]
        name = f"{max(numbers, default=0) + 1:08d}.ckpt"
        temporary = self._folder / f"{_TEMPORARY_PREFIX}{name}"
        try:
            with temporary.open("wb") as file:
                write_checkpoint(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)
        regular = [path for _, path in _checkpoints_in(self._folder) if path.is_file() and not path.is_symlink()]
        for path in regular[:-_KEPT]:
            with contextlib.suppress(OSError):  # it costs space, and the next one tries again
                path.unlink(missing_ok=True)

    def load(
        self,
        identity: dict[str, Any],
        check: Callable[[Checkpoint], None] = lambda checkpoint: None,
        largest: int = sys.maxsize,
    ) -> Checkpoint | None:
        """The furthest whole checkpoint of a training; None where there is none.

        Args:
            identity: what is about to be trained.
            check: raises ValueError where a checkpoint does not fit what is about to be trained; it then
                counts as damaged. Raises UserError where it does not serve although it is of this training.
            largest: bytes that a checkpoint of this training cannot exceed.

        Raises:
            UserError: the newest checkpoint of this job's own name is of another training, or does not serve.
        """
        found, unused = self._found(identity)
        for candidate in found:
            try:
                checkpoint = read_checkpoint(candidate.path, largest)
                check(checkpoint)
            except UserError as error:
                if not candidate.job:
                    raise
                unused[candidate.job] = str(error)
            except (OSError, ValueError) as error:
                self._pass_over(candidate.path, error)
            else:
                if candidate.job:
                    say(f"going on from {candidate.path}, which job {candidate.job} left of the same training")
                return checkpoint
        if unused:
            named = [f"job {job} ({why})" for job, why in list(unused.items())[:_JOBS_NAMED]]
            more = f" and {len(unused) - len(named)} more" if len(unused) > len(named) else ""
            say(f"{self._shared} has checkpoints of other trainings, which are not used: {'; '.join(named)}{more}")
        return None

    def _found(self, identity: dict[str, Any]) -> tuple[list[_Found], dict[str, str]]:
        """The checkpoints of a training, furthest first, and why other jobs' are not used, by job.

        Raises:
            UserError: the newest of this job's own is of another training.
        """
        found, unused = [], {}
        for job in ["", *self._other_jobs()]:
            newest_first = reversed(_checkpoints_in(self._shared / (job or self._job) / self._subfolder))
            for _, path in newest_first:
                try:
                    theirs, progress = read_labels(path)
                except FileNotFoundError:  # its job has deleted it since
                    continue
                except (OSError, ValueError) as error:
                    self._pass_over(path, error)
                    continue
                if theirs == identity:
                    reached = (_number(progress.get("epoch", 0)), _number(progress.get("step", 0)))
                    found.append(_Found(path, job, reached))
                elif job:
                    unused[job] = _difference(theirs, identity)
                    break
                elif not any(not each.job for each in found):
                    raise UserError(
                        f"checkpoint {path} is of another training: {_difference(theirs, identity)}; restore them, "
                        "name another job, or empty the folder"
                    )
        return sorted(found, key=lambda each: (each.reached, not each.job), reverse=True), unused

    def _other_jobs(self) -> list[str]:
        """Names of the jobs that left checkpoints in the shared folder."""
        try:
            with os.scandir(self._shared) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        return sorted(name for name in names if name != self._job)

    def _pass_over(self, path: Path, error: Exception) -> None:
        """Tells of a checkpoint that cannot be used, and deletes it where it is this job's and damaged."""
        damaged = isinstance(error, ValueError)
        say(f"checkpoint {path} {'is damaged' if damaged else 'cannot be read'} ({error}) and is passed over")
        if damaged and path.parent == self._folder:  # else it would be one of the two kept
            with contextlib.suppress(OSError):
                path.unlink()


class CheckpointSaver:
    """Saves a training's checkpoints when they are due.

    Args:
        folder: where to; None: nowhere.
        seconds: from one to the next.
        make: makes a checkpoint of the training as it is.
        report: takes a line for the log.
    """

    def __init__(
        self,
        folder: CheckpointFolder | None,
        seconds: float,
        make: Callable[[], Checkpoint],
        report: Callable[[str], None],
    ):
        self._folder, self._seconds, self._make, self._report = folder, seconds, make, report
        self._last, self._cost, self._refused = time.monotonic(), 0.0, False

    def save(self, *, due: bool = False, force: bool = False) -> None:
        """Saves a checkpoint where one is due and checkpoints do not take more than 1 % of the time.

        Args:
            due: whether one is due whatever the time.
            force: whether it may take more.
        """
        began = time.monotonic()
        due = due or began - self._last >= self._seconds
        if not self._folder or not (force or (due and began - self._last >= self._cost / _SHARE)):
            return
        try:
            self._folder.save(self._make())
        except OSError as error:  # no reason to lose what has been trained
            if not self._refused:
                self._report(
                    f"NO CHECKPOINT could be written, and training goes on: {error}; earlier ones are "
                    "untouched, and it is tried again"
                )
            self._refused = True
        self._last = time.monotonic()
        self._cost = self._last - began


def _checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """What is named like a checkpoint in a folder, by number, oldest first."""
    found = ((re.fullmatch(r"(\d+)\.ckpt", path.name), path) for path in folder.glob("*.ckpt"))
    return sorted((int(match.group(1)), path) for match, path in found if match)


def _number(value: Any) -> int:
    """A count that a file names; the largest where it is none, so that the file is tried first and found damaged."""
    return value if type(value) is int else sys.maxsize


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    return ", ".join(f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}" for name in names)
