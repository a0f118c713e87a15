"""The process that owns one job on this machine: starts it, stops it, and keeps its record true.

`python runner.py FOLDER LOCK` is started by a place, in a session of its own, so that the job outlives the
launcher and hears of no Ctrl-C. It holds a lock for as long as anything of the job runs: a record that says
InProgress with the lock free is of a job that died with its machine. It imports the standard library and little
else, since one of these sits beside every job.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "container"))

from place import engine
from place.outcome import failure_text, final_metrics
from place.record import LOG, LOOKS, RECORD, RUNNER_LOCK, now, read_record, signal_job, take_lock, write_record

_STOP_SECONDS = 120  # between SIGTERM and SIGKILL, as on SageMaker
_POLL_SECONDS = 0.1
_BECOME_SUBREAPER = 36  # Linux' PR_SET_CHILD_SUBREAPER


class _JobRun:
    """One job from start to end."""

    def __init__(self, folder: Path, lock: int):
        self._folder, self._lock, self._runner_lock = folder, lock, take_lock(folder, RUNNER_LOCK)
        self._record = read_record(folder / RECORD)
        self._stopped_because = ""  # SecondaryStatus of a job that was stopped
        signal.signal(signal.SIGTERM, lambda *_: self._ask_to_stop("Stopped"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform == "linux":  # what a job leaves behind comes to this process and not to init
            ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> None:
        """Starts the job, waits for its end, and writes down what it came to."""
        record = self._record
        if record.get("Cores"):
            os.sched_setaffinity(0, record["Cores"])
        record |= {"SecondaryStatus": "Training", "TrainingStartTime": now(), "RunnerPid": os.getpid()}
        write_record(self._folder / RECORD, record)
        with contextlib.suppress(OSError):  # then the job says that its look is not counted
            (self._folder.parent / LOOKS).mkdir(exist_ok=True)
        with (self._folder / LOG).open("ab") as log:
            try:
                self._job = subprocess.Popen(
                    record["Command"],
                    cwd=self._folder,
                    env={**os.environ, **record["CommandEnvironment"]},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[self._lock],
                )
            except OSError as error:
                record |= {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "TrainingEndTime": now()}
                record["FailureReason"] = (
                    f"ClientError: {record['Command'][0]} cannot be started: {error.strerror}; "
                    "install requirements.txt beside sagemaker/requirements.txt"
                )
                write_record(self._folder / RECORD, record)
                return
        record["JobPid"] = self._job.pid
        write_record(self._folder / RECORD, record)
        self._write_end(self._wait())

    def _wait(self) -> int:
        """The exit code, once the job and all that it started have ended, or had to be ended.

        What still runs when the job's process ends is killed, as with a container; where the job was asked to stop,
        it has what is left of the two minutes.
        """
        started = time.monotonic()
        limit = self._record["StoppingCondition"].get("MaxRuntimeInSeconds", float("inf"))
        asked, killed, kill_at = False, False, float("inf")
        while (code := self._poll()) is None or (left_behind := _descendants()):
            elapsed = time.monotonic() - started
            if elapsed > limit and not self._stopped_because:
                self._ask_to_stop("MaxRuntimeExceeded")
            if self._stopped_because and not asked:
                asked, kill_at = True, elapsed + _STOP_SECONDS
                write_record(
                    self._folder / RECORD,
                    self._record | {"TrainingJobStatus": "Stopping", "SecondaryStatus": "Stopping"},
                )
                signal_job(self._record, signal.SIGTERM)
            if code is None and elapsed > kill_at and not killed:
                killed = True
                signal_job(self._record, signal.SIGKILL)
            if code is not None and (not asked or elapsed > kill_at):
                for pid in left_behind:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if code is not None:
                time.sleep(_POLL_SECONDS)
        return code

    def _poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._job.wait(timeout=_POLL_SECONDS)

    def _ask_to_stop(self, because: str) -> None:
        self._stopped_because = self._stopped_because or because

    def _write_end(self, code: int) -> None:
        record, folder = self._record, self._folder
        record["TrainingEndTime"] = now()
        started, ended = (datetime.fromisoformat(record[f"Training{edge}Time"]) for edge in ("Start", "End"))
        record |= {"TrainingTimeInSeconds": round((ended - started).total_seconds()), "ExitCode": code}
        record["FinalMetricDataList"] = final_metrics(folder, record)
        if self._stopped_because:
            record |= {"TrainingJobStatus": "Stopped", "SecondaryStatus": self._stopped_because}
        elif code == 0:
            record |= {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"}
        else:
            record |= {
                "TrainingJobStatus": "Failed",
                "SecondaryStatus": "Failed",
                "FailureReason": self._failure_reason(code),
            }
        write_record(folder / RECORD, record)

    def _failure_reason(self, code: int) -> str:
        """In SageMaker's form: a class of error, the message, the exit code."""
        if engine.LABELS in self._record and code in (125, 126, 127):  # docker run's own
            log = (self._folder / LOG).read_text(encoding="utf-8", errors="replace")
            lines = [line for line in log.splitlines() if line.strip() and "docker run --help" not in line]
            # Docker says the first before it pulls, and the second where that worked: then the fault is another.
            missing = "Unable to find image" in log and "Status: Downloaded newer image" not in log
            what = (
                f"there is no image {self._record['AlgorithmSpecification']['TrainingImage']} here (`make image` "
                "builds it, --image names another) and it cannot be pulled"
                if missing
                else "the container did not start"
            )
            return f"ClientError: {what}: {lines[-1] if lines else 'see the log'}"
        text = failure_text(self._folder)
        if not text:
            text = (
                f"the process was killed by {signal.Signals(-code).name}"
                if code < 0
                else "the container was killed, out of memory perhaps"
                if code == 137
                else "the job left no reason"
            )
            text += f"; see {self._folder / LOG}"
        return f"AlgorithmError: {text}, exit code: {code if code > 0 else 128 - code}"


def _descendants() -> list[int]:
    """Processes that this one's job started and that still run, whatever their parents are by now."""
    parents = dict[int, int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(path.parent.name)] = int(parent)
    found, new = list[int](), [os.getpid()]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def main() -> None:
    """Runs the job in the folder that the command line names."""
    _JobRun(Path(sys.argv[1]), int(sys.argv[2])).run()


if __name__ == "__main__":
    main()
