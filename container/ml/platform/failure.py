"""A failed job's reason: output/failure for SageMaker, and the job's last line."""

import contextlib
import faulthandler
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from sagemaker_training.errors import ClientError

from ml.errors import UserError, printable
from ml.files import write_whole
from ml.log import quoted, say

FAILURE_CHARACTERS = 1024  # SageMaker's FailureReason takes that many of output/failure

_foreseen = set[Path]()  # files with the reason of an end that has not come yet


class JobFailed(ClientError):
    """Raised after the failure was reported; makes the toolkit exit with 1, without a traceback of its own."""


class ScriptFailed(Exception):
    """The script ended with an error; its message is the script's own, where it left one.

    Attributes:
        details: the last lines of its standard error.
    """

    def __init__(self, message: str, details: str):
        super().__init__(message)
        self.details = details


@contextlib.contextmanager
def failures_reported(base: Path):
    """Turns an exception into output/failure and one line on standard error, then raises JobFailed.

    The message comes first and a traceback, where the fault is ours, after it: SageMaker shows the
    first 1024 characters. An earlier run's file is removed; one that a user's script wrote is kept, as by the toolkit.
    Everything must leave as an exception, since the toolkit takes SystemExit and KeyboardInterrupt in a module for
    success.
    """
    path = base / "output" / "failure"
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        text = _text(error)
        with contextlib.suppress(OSError):  # a read-only or full disk must not hide the error itself
            if path.exists():
                text = printable(path.read_text(encoding="utf-8", errors="replace"))
            else:
                write_whole(path, text[:FAILURE_CHARACTERS])
        message = text.splitlines()[0] if text.strip() else "the job failed and gave no reason"
        say(f"error: {message}", stream=sys.stderr)
        raise JobFailed(quoted(message)) from None  # the toolkit logs it once more


def end_failed(base: Path, message: str) -> NoReturn:
    """Ends the process with a failure from a thread, whatever the main thread is in; what had failed before counts."""
    path = base / "output" / "failure"
    with contextlib.suppress(OSError):
        if path in _foreseen or not path.exists():
            write_whole(path, message[:FAILURE_CHARACTERS])
    say(f"error: {message}", stream=sys.stderr)
    os._exit(1)


@contextlib.contextmanager
def ended_after(base: Path, seconds: float, message: str):
    """Ends the process with a failure where a block takes so long, even if nothing of Python can run meanwhile.

    A library that waits with the interpreter's lock held stops every thread and every signal's handler. So the reason
    is written first and taken away after the block, and a thread that needs no lock ends the process.
    """
    path = base / "output" / "failure"
    _foreseen.add(path)
    with contextlib.suppress(OSError):
        write_whole(path, message[:FAILURE_CHARACTERS])
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        _foreseen.remove(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _text(error: BaseException) -> str:
    """What a failure file says of an exception: the message first, then where it came from if the fault is ours."""
    if isinstance(error, UserError):
        return printable(str(error))
    if isinstance(error, ScriptFailed):
        room = FAILURE_CHARACTERS - len(str(error)) - 1
        return f"{error}\n{error.details[-room:]}" if room > 0 else str(error)
    for line in "".join(traceback.format_exception(error)).splitlines():  # a message in it may look like a metric
        say(line, stream=sys.stderr)
    message = printable(f"{type(error).__name__}: {error}").rstrip(": ")
    return f"{message}\n{_last_frames(error, FAILURE_CHARACTERS - len(message) - 1)}".rstrip()


def _last_frames(error: BaseException, characters: int) -> str:
    """As many of the innermost frames of a traceback as fit."""
    frames = traceback.format_tb(error.__traceback__)
    kept = ""
    for frame in reversed(frames):
        if len(frame) + len(kept) > characters:
            break
        kept = frame + kept
    return kept
