"""A failed job's reason: output/failure for SageMaker, and the job's last line."""

import contextlib
import sys
import traceback
from pathlib import Path

from sagemaker_training.errors import ClientError

from ml.errors import UserError, printable

FAILURE_CHARACTERS = 1024  # SageMaker's FailureReason takes that many of output/failure


class JobFailed(ClientError):
    """Raised after the failure was reported; makes the toolkit exit with 1, without a traceback of its own."""


@contextlib.contextmanager
def failures_reported(base: Path):
    """Turns an exception into output/failure and one line on standard error, then raises JobFailed.

    The message comes first and a traceback, where the fault is ours, after it: SageMaker shows the
    first 1024 characters. An earlier run's file is removed; the toolkit keeps the one that it finds. Everything
    must leave as an exception, since the toolkit takes SystemExit and KeyboardInterrupt in a module for success.
    """
    with contextlib.suppress(OSError):
        (base / "output" / "failure").unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        if isinstance(error, UserError):
            text = printable(str(error))
        else:
            message = printable(f"{type(error).__name__}: {error}").rstrip(": ")
            text = f"{message}\n{_last_frames(error, FAILURE_CHARACTERS - len(message) - 1)}".rstrip()
            traceback.print_exc()
        with contextlib.suppress(OSError):  # a read-only or full disk must not hide the error itself
            (base / "output").mkdir(parents=True, exist_ok=True)
            (base / "output" / "failure").write_text(text[:FAILURE_CHARACTERS], encoding="utf-8")
        print(f"error: {text.splitlines()[0]}", file=sys.stderr, flush=True)
        raise JobFailed(text.splitlines()[0]) from None


def _last_frames(error: BaseException, characters: int) -> str:
    """As many of the innermost frames of a traceback as fit."""
    frames = traceback.format_tb(error.__traceback__)
    kept = ""
    for frame in reversed(frames):
        if len(frame) + len(kept) > characters:
            break
        kept = frame + kept
    return kept
