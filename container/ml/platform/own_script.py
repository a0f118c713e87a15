"""A user's own script in place of the built-in training (`sagemaker_program`), prepared by SageMaker's toolkit.

The toolkit brings the script's files, installs its requirements and makes its command and environment. It would also
run it, but passes no SIGTERM on and keeps no word of why it failed, so running and ending it is done here.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import IO, Any

from sagemaker_training import entry_point, environment, files, logging_config, process

from ml.errors import printable
from ml.log import say
from ml.platform.failure import ScriptFailed

# SageMaker and the launcher send SIGKILL 120 s after SIGTERM; the script and all that it started must be gone before.
GRACE_SECONDS = 115

_KEPT_LINES = 200  # of standard error, the last ones, to find the reason of a failure in
_PARENT_DIED = 1  # PR_SET_PDEATHSIG


def run_own_script() -> None:
    """Runs the script that the job's hyperparameters name, as a child process that hears of SIGTERM and SIGINT.

    Raises:
        ScriptFailed: it ended with an error.
        Exception: of the toolkit, where the script cannot be brought or started.
    """
    job = environment.Environment()
    logging_config.configure_logger(job.log_level)
    # `run` takes a runner as well as the name of one.
    runner: Any = _Script(job.user_entry_point, job.to_cmd_args(), job.to_env_vars(), processes_per_host=1)
    entry_point.run(job.module_dir, job.user_entry_point, job.to_cmd_args(), job.to_env_vars(), runner_type=runner)
    with contextlib.suppress(OSError):
        files.write_success_file()


class _Script(process.ProcessRunner):
    """Runs one script; `entry_point.run` calls `run` once everything is in place."""

    _asked_to_stop = False

    def run(self, wait: bool = True, capture_error: bool = False) -> Any:
        """Runs the script to its end; the arguments are the toolkit's and are not used."""
        command: list[str] = self._create_command()
        # A session of its own: it gets one SIGTERM, from here, whoever else in the group does, and what it
        # starts can be ended with it.
        script = subprocess.Popen(  # noqa: S603 - the user's own program
            command,
            cwd=environment.code_dir,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: self._pass_on(script, signal.Signals(number)))
        last_lines: deque[bytes] = deque(maxlen=_KEPT_LINES)
        copying = threading.Thread(target=_copy, args=(script.stderr, last_lines), daemon=True)
        copying.start()
        code = script.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what it left running
            os.killpg(script.pid, signal.SIGKILL)
        copying.join(timeout=10)
        if self._asked_to_stop and code in (0, -signal.SIGTERM, -signal.SIGINT):
            say(f"stopped: {self._user_entry_point} ended")
        elif code:
            raise _failure(self._user_entry_point, code, b"".join(last_lines).decode("utf-8", "replace"))
        return script

    def _pass_on(self, script: subprocess.Popen, number: signal.Signals) -> None:
        say(f"received {number.name}: passed on to {self._user_entry_point}, which has {GRACE_SECONDS} s to end")
        script.send_signal(number)
        if not self._asked_to_stop:
            self._asked_to_stop = True
            ending = threading.Timer(GRACE_SECONDS, _kill_group, [script])
            ending.daemon = True
            ending.start()


def _kill_group(script: subprocess.Popen) -> None:
    say(f"the script has not ended {GRACE_SECONDS} s after it was asked to, and is killed")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(script.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    """In the child: the kernel kills it when this process is killed, so that no orphan trains on."""
    ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)


def _copy(source: IO[bytes], last_lines: deque[bytes]) -> None:
    """Passes standard error on as it comes, keeping its last lines."""
    for line in source:
        last_lines.append(line[-4096:])
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()


def _failure(name: str, code: int, errors: str) -> ScriptFailed:
    """Why a script failed: the exception that it printed last, or its last line."""
    lines = [line for line in errors.splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else ""
    traces = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if traces:
        # The exception is the first line after the frames, which are indented.
        reason = next((line for line in lines[traces[-1] + 1 :] if not line.startswith(" ")), reason)
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    message = printable(f"{reason} ({name} {ended})" if reason else f"{name} {ended} and printed no reason")
    return ScriptFailed(message, "\n".join(lines[traces[-1] :] if traces else lines[-20:]))
