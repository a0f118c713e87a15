"""What SageMaker asked for and where results go: everything under /opt/ml, read once.

All paths hang on one base folder, so that a test or a local run only has to name another one.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from sagemaker_training.errors import ClientError

from ml.errors import UserError

FAILURE_CHARACTERS = 1024  # SageMaker's FailureReason takes that many of output/failure


@dataclasses.dataclass(frozen=True)
class Job:
    """A training job as the container sees it.

    Attributes:
        base: the folder that SageMaker mounts (/opt/ml).
        name: the job's name; `local` where nobody gave one.
        hyperparameters: name to text, as sent.
        channels: channel name to the folder with its files.
        hosts: host names in the order of their numbers.
        instance_type: such as `ml.g5.xlarge`; empty where unknown.
        checkpoints: the folder to keep checkpoints in; None where the job has none.
    """

    base: Path
    name: str
    hyperparameters: dict[str, Any]
    channels: dict[str, Path]
    hosts: tuple[str, ...]
    instance_type: str
    checkpoints: Path | None

    @property
    def model(self) -> Path:
        return self.base / "model"

    @property
    def output_data(self) -> Path:
        return self.base / "output" / "data"

    @property
    def tensorboard(self) -> Path:
        return self.base / "output" / "tensorboard"


def base_folder() -> Path:
    """/opt/ml, or the folder that the toolkit's SAGEMAKER_BASE_DIR names."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml")


def _read_config(base: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    """The JSON object in input/config/`name`; {} where the file may be absent and is."""
    path = base / "input" / "config" / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise UserError(f"{path} is missing; SageMaker writes it, and a local run must mount a folder "
                        f"that has it at {base}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, received {type(content).__name__}")
    return content


def _path(text: Any, where: object) -> Path:
    if not isinstance(text, str) or not text.isprintable():
        raise UserError(f"{where} must be the path of a folder, received {text!r}")
    return Path(text)


def _channel(name: str) -> str:
    """A channel's name; one with a path in it would read elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9.\-_]{1,64}", name) or name in (".", ".."):
        raise UserError(f"a channel is named {name!r}; its name must be of letters, digits, dots, hyphens and "
                        "underscores")
    return name


def _host_number(host: str) -> tuple[int, str]:
    """Sort key that puts algo-2 before algo-10."""
    number = re.search(r"\d+$", host)
    return int(number.group()) if number else 0, host


def read_job(base: Path) -> Job:
    """The job described by the files under a base folder.

    Raises:
        UserError: a file is missing or malformed.
    """
    hyperparameters = _read_config(base, "hyperparameters.json", required=True)
    resources = _read_config(base, "resourceconfig.json")
    # Channels are listed in a file on SageMaker; a plain `docker run` only has their folders.
    data = base / "input" / "data"
    listed = _read_config(base, "inputdataconfig.json") or \
        {path.name: {} for path in data.glob("*") if path.is_dir()}
    hosts = resources.get("hosts") or ["algo-1"]
    if not (isinstance(hosts, list) and all(isinstance(host, str) for host in hosts)):
        raise UserError(f"{base / 'input/config/resourceconfig.json'}: hosts must be a list of names, "
                        f"received {hosts!r}")
    checkpoint_config = _read_config(base, "checkpointconfig.json")
    # SageMaker makes the folder only for a job with a CheckpointConfig, whose path is its own.
    checkpoints = _path(checkpoint_config.get("LocalPath") or str(base / "checkpoints"),
                        base / "input/config/checkpointconfig.json: LocalPath")
    return Job(
        base=base,
        name=os.environ.get("TRAINING_JOB_NAME") or "local",
        hyperparameters=hyperparameters,
        channels={name: data / _channel(name) for name in listed},
        hosts=tuple(sorted(hosts, key=_host_number)),
        instance_type=str(resources.get("current_instance_type") or ""),
        checkpoints=checkpoints if checkpoint_config or checkpoints.is_dir() else None,
    )


class StopSignal:
    """Set once the process is asked to end (SIGTERM from SageMaker and Docker, SIGINT from a terminal).

    Make it first: as PID 1 a process without a handler never learns of a SIGTERM.
    """

    def __init__(self):
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number, _frame):
        self.is_set = True
        print(f"received {signal.Signals(number).name}: stopping as soon as the step under way ends", flush=True)


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
            text = _printable(str(error))
        else:
            message = _printable(f"{type(error).__name__}: {error}").rstrip(": ")
            text = f"{message}\n{_last_frames(error, FAILURE_CHARACTERS - len(message) - 1)}".rstrip()
            traceback.print_exc()
        with contextlib.suppress(OSError):  # a read-only or full disk must not hide the error itself
            (base / "output").mkdir(parents=True, exist_ok=True)
            (base / "output" / "failure").write_text(text[:FAILURE_CHARACTERS], encoding="utf-8")
        print(f"error: {text.splitlines()[0]}", file=sys.stderr, flush=True)
        raise JobFailed(text.splitlines()[0]) from None


def _printable(text: str) -> str:
    """A text in one line, with escapes for what a terminal would obey and UTF-8 has not."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
                   for each in " ".join(text.split()))


def _last_frames(error: BaseException, characters: int) -> str:
    """As many of the innermost frames of a traceback as fit."""
    frames = traceback.format_tb(error.__traceback__)
    kept = ""
    for frame in reversed(frames):
        if len(frame) + len(kept) > characters:
            break
        kept = frame + kept
    return kept
