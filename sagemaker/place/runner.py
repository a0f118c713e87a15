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

from ml.log import say
from place import engine
from place.hosts import HOSTS, folder_of_host, host_names_in, merge
from place.outcome import failure_of, final_metrics
from place.record import (
    LOG,
    LOOKS,
    RECORD,
    RUNNER_LOCK,
    is_locked,
    now,
    read_record,
    signal_job,
    take_lock,
    write_record,
)

_STOP_SECONDS = 120  # between SIGTERM and SIGKILL, as on SageMaker
_KILLED = (-signal.SIGKILL, 137)  # codes of a process, and of a container
# After a host has failed: until the others are asked to end, which should have noticed, and then until they are killed.
_NOTICE_SECONDS, _END_SECONDS = 75, 15
_POLL_SECONDS = 0.05
_BECOME_SUBREAPER = 36  # Linux' PR_SET_CHILD_SUBREAPER


class _JobRun:
    """One job from start to end, on all its hosts."""

    def __init__(self, folder: Path, lock: int):
        self._folder, self._lock, self._runner_lock = folder, lock, take_lock(folder, RUNNER_LOCK)
        self._record = read_record(folder / RECORD)
        self._processes = list[subprocess.Popen]()  # in the order of the hosts
        self._stopped_because = ""  # SecondaryStatus of a job that was stopped
        self._unsaved = False  # whether the disk refused the record
        self._failed_at = float("inf")  # when a host failed first, and the others still ran
        self._failed: int | None = None  # index of the host that failed first, unless the job was stopped before
        self._killed = False  # whether hosts that did not end were killed here
        signal.signal(signal.SIGTERM, lambda *_: self._ask_to_stop("Stopped"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform == "linux":  # what a job leaves behind comes to this process and not to init
            ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> None:
        """Starts the job, waits for its end, and writes down what it came to."""
        self._record |= {"SecondaryStatus": "Training", "TrainingStartTime": now(), "RunnerPid": os.getpid()}
        self._save()
        reason = self._start()
        if reason:
            signal_job(self._record, signal.SIGKILL)
        codes = self._wait()
        with contextlib.suppress(engine.EngineSilent):  # the next look at the job, or the next job, removes the rest
            engine.remove_all(self._record)
        self._write_end(codes, reason)

    def _start(self) -> str:
        """Starts every host; returns why that failed, in SageMaker's form, or nothing."""
        record = self._record
        with contextlib.suppress(OSError):  # then the job says that its look is not counted
            (self._folder.parent / LOOKS).mkdir(exist_ok=True)
        try:
            engine.create_network(record, lambda job: _is_running(self._folder.with_name(job)))
        except engine.EngineSilent as silence:
            return f"ClientError: the hosts' network cannot be made: {silence}"
        for host in record[HOSTS]:
            if host["Cores"]:
                os.sched_setaffinity(0, host["Cores"])  # the host's process inherits it
            try:
                with (folder_of_host(self._folder, host["HostName"]) / LOG).open("ab") as log:
                    process = subprocess.Popen(
                        host["Command"],
                        cwd=self._folder,
                        env={**os.environ, **host["CommandEnvironment"]},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        pass_fds=[self._lock],
                    )
            except OSError as error:
                if str(error.filename).endswith(LOG):
                    return f"ClientError: {error.filename} cannot be opened: {error.strerror}"
                return (
                    f"ClientError: {host['Command'][0]} cannot be started: {error.strerror}; "
                    "install requirements.txt beside sagemaker/requirements.txt"
                )
            self._processes.append(process)
            host["JobPid"] = process.pid
            self._save()
        return ""

    def _save(self) -> None:
        """Writes the record; where the disk refuses, the job goes on, and it is tried again while the job runs."""
        try:
            write_record(self._folder / RECORD, self._record)
            self._unsaved = False
        except OSError as error:
            if not self._unsaved:
                with contextlib.suppress(OSError):  # the log may be on the same full disk
                    say(f"the job's record cannot be written, and the job goes on: {error}", stream=sys.stderr)
            self._unsaved = True

    def _wait(self) -> list[int]:
        """The hosts' exit codes, once they and all that they started have ended, or had to be ended.

        What still runs when all hosts' processes have ended is killed, as with a container; where the job was asked to
        stop, it has what is left of the two minutes. Where one host fails, the others have a bounded time to end.
        """
        started = time.monotonic()
        limit = self._record["StoppingCondition"].get("MaxRuntimeInSeconds", float("inf"))
        asked, asked_others, kill_at = False, False, float("inf")
        while True:
            codes = [process.poll() for process in self._processes]
            for host, code in zip(self._record[HOSTS], codes, strict=False):  # fewer where not all could be started
                if code is not None:
                    host["ExitCode"] = code
            running = None in codes
            left_behind = [] if running else _descendants()
            if not running and not left_behind:
                return [code for code in codes if code is not None]
            elapsed = time.monotonic() - started
            if self._unsaved:
                self._save()
            if running and self._failed is None and not self._stopped_because and any(codes):
                self._note_failure(codes, elapsed)
            if elapsed > limit and not self._stopped_because:
                self._ask_to_stop("MaxRuntimeExceeded")
            if self._stopped_because and not asked:
                asked, kill_at = True, elapsed + _STOP_SECONDS
                self._record |= {"TrainingJobStatus": "Stopping", "SecondaryStatus": "Stopping"}
                self._save()
                signal_job(self._record, signal.SIGTERM)
            if running and elapsed > self._failed_at + _NOTICE_SECONDS and not asked_others:
                asked_others, kill_at = True, min(kill_at, elapsed + _END_SECONDS)
                signal_job(self._record, signal.SIGTERM)
            if running and elapsed > kill_at and not self._killed:
                self._killed = True
                signal_job(self._record, signal.SIGKILL)
            if not running and (not asked or elapsed > kill_at):
                for pid in left_behind:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)

    def _note_failure(self, codes: list[int | None], elapsed: float) -> None:
        """Remembers which host failed first, while others run, and tells it in the log."""
        self._failed, code = next((number, code) for number, code in enumerate(codes) if code)
        self._failed_at = elapsed
        name = self._record[HOSTS][self._failed]["HostName"]
        self._tell(
            f"{name} ended with exit code {_positive(code)}; "
            f"the other hosts are stopped if they have not ended in {_NOTICE_SECONDS} s"
        )

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError), (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def _ask_to_stop(self, because: str) -> None:
        self._stopped_because = self._stopped_because or because

    def _write_end(self, codes: list[int], reason: str) -> None:
        record, folder = self._record, self._folder
        record["TrainingEndTime"] = now()
        started, ended = (datetime.fromisoformat(record[f"Training{edge}Time"]) for edge in ("Start", "End"))
        record["TrainingTimeInSeconds"] = round((ended - started).total_seconds())
        for line in merge(folder, record):
            self._tell(line)
        record["FinalMetricDataList"] = final_metrics(folder, record)
        failed = self._failed
        if failed is None:
            failed = next((number for number, code in enumerate(codes) if code), None)
        if failed is not None and not self._killed:  # one that was killed has been told by others before it was seen
            failed = next((number for number, code in enumerate(codes) if code in _KILLED), failed)
        if failed is not None or not reason:
            record["ExitCode"] = 0 if failed is None else codes[failed]
        if self._stopped_because and self._failed is None:
            record |= {"TrainingJobStatus": "Stopped", "SecondaryStatus": self._stopped_because}
        elif failed is None and not reason:
            record |= {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"}
        else:
            record |= {
                "TrainingJobStatus": "Failed",
                "SecondaryStatus": "Failed",
                "FailureReason": reason or self._failure_reason(failed or 0),
            }
        self._save()

    def _failure_reason(self, failed: int) -> str:
        """In SageMaker's form: a class of error, the message with the hosts of several that it is of, the exit code."""
        hosts = self._record[HOSTS]
        name, code = hosts[failed]["HostName"], hosts[failed]["ExitCode"]
        at = f"{name}: " if len(hosts) > 1 else ""
        path = folder_of_host(self._folder, name) / LOG
        if engine.LABELS in self._record and code in (125, 126, 127):  # docker run's own
            log = path.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in log.splitlines() if line.strip() and "docker run --help" not in line]
            # Docker says the first before it pulls, and the second where that worked: then the fault is another.
            missing = "Unable to find image" in log and "Status: Downloaded newer image" not in log
            what = (
                f"there is no image {self._record['AlgorithmSpecification']['TrainingImage']} here (`make image` "
                "builds it, --image names another) and it cannot be pulled"
                if missing
                else "the container did not start"
            )
            return f"ClientError: {at}{what}: {lines[-1] if lines else 'see the log'}"
        text = failure_of(self._folder, host_names_in(self._record), name)
        if not text:
            text = at + (
                f"the process was killed by {signal.Signals(-code).name}"
                if code < 0
                else "the container was killed, out of memory perhaps"
                if code == 137
                else "the job left no reason"
            )
            text += f"; see {path}"
        return f"AlgorithmError: {text}, exit code: {_positive(code)}"


def _positive(code: int) -> int:
    """An exit code as a shell tells it."""
    return code if code >= 0 else 128 - code


def _is_running(folder: Path) -> bool:
    return folder.is_dir() and is_locked(folder)


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
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    try:
        run = _JobRun(folder, lock)
    except OSError as error:
        sys.exit(f"the job was not started: {error}")
    run.run()


if __name__ == "__main__":
    main()
