"""A tuning job on this machine: the search that SageMaker would do, with Optuna, over jobs of a place.

`python search.py FOLDER LOCK` owns one tuning job, in a session of its own. Everything it knows is on disk
before it is acted on: Optuna's study in SQLite, the jobs in their folders. Killed at any moment and started
again, it adopts the jobs that still run, runs again under the same number those that died, and draws the
same points as if nothing had happened. A job trains one trial or a pack of them (`search_points`).
"""

import contextlib
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

import optuna
from optuna.trial import Trial

import leaderboard
from members import Pack, member_name
from ml.errors import UserError
from ml.metrics import METRICS
from place.base import FINAL, NoSuchJob
from place.find import make_place_here
from place.hosts import machine_cores, shares
from place.record import TUNING_RECORD, now, read_record, write_record
from request import JOB_PARTS, objective_of, training_part
from search_points import Points, reason_to_end
from trials_luck import luck_of_trials

_POLL_SECONDS = 0.2
_SAVE_SECONDS = 5  # how much of MaxRuntimeInSeconds a kill can make it forget
_PICTURE_SECONDS = 10  # between two drawings of the leaderboard's page, which takes half a second
_FAILURES = 3  # that many jobs at the start, with no success, and the request is at fault
_RESTARTS = 3  # of one job whose process vanishes


class Search:
    """One tuning job from wherever it is to its end.

    Args:
        folder: the tuning job's, with its record.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._record = read_record(folder / TUNING_RECORD)
        self._name = self._record["HyperParameterTuningJobName"]
        self._place = make_place_here(self._record["Place"], folder.parent, self._record["DockerNetwork"])
        self._config = self._record["HyperParameterTuningJobConfig"]
        self._static = self._record["TrainingJobDefinition"].get("StaticHyperParameters", {})
        self._metric, self._maximize = objective_of(self._record)
        # Such a metric comes when the training is over: there is nothing to stop early.
        self._comes_once = self._metric in METRICS and METRICS[self._metric].once
        limits = self._config["ResourceLimits"]
        self._pack = Pack(self._record.get("Pack", 1), self._record.get("Halving", ""))
        self._parallel = max(1, limits["MaxParallelTrainingJobs"] // self._pack.size)  # jobs at a time
        self._most_seconds = limits.get("MaxRuntimeInSeconds", math.inf)
        self._points = Points(folder, self._record)
        for parent in self._record.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
            self._points.learn_from(self._place.trials(parent["HyperParameterTuningJobName"]), self._log)
        self._running = dict[int, list[Trial]]()  # by their pack
        self._restarts = dict[int, int]()
        self._ended = 0  # jobs, of this process: a search that failed may go on once the cause is mended
        self._stop_asked = False
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        """Starts, watches and stops jobs until the search is over."""
        self._record |= {"HyperParameterTuningJobStatus": "InProgress", "SearchPid": os.getpid()}
        self._save()
        used, resumed = self._record.get("SecondsUsed", 0), time.monotonic()
        unfinished = self._points.unfinished_packs()
        self._running |= {pack: [] for pack in unfinished}
        for pack in unfinished:
            self._take_up(pack)
        because, stopping, saved, pictured = "", False, resumed, -math.inf
        while True:
            ended = [pack for pack in self._running if self._watch(pack)]
            for pack in ended:
                del self._running[pack]
            seconds = used + time.monotonic() - resumed
            because = because or self._reason_to_end(seconds)
            while not because and len(self._running) < self._parallel:
                if (pack := self._points.next_pack()) is None:
                    break
                self._start(pack)
            if because and not stopping:
                stopping = True
                self._log(f"ending: {because}")
                for pack in self._running:
                    self._place.stop(self._job_name(pack))
            if ended or time.monotonic() - saved > _SAVE_SECONDS:
                saved = time.monotonic()
                self._record["SecondsUsed"] = seconds
                trials = self._save()
                if ended and saved - pictured > _PICTURE_SECONDS:
                    pictured = saved
                    leaderboard.write_files(self._folder, self._record, trials)
            if not self._running and (because or self._points.next_pack() is None):
                break
            time.sleep(_POLL_SECONDS)
        self._finish(because)

    def _reason_to_end(self, seconds: float) -> str:
        """Why no further job is to be started before the last; empty: go on."""
        if self._stop_asked:
            return "stopped"
        if seconds > self._most_seconds:
            return f"MaxRuntimeInSeconds, {self._most_seconds}, is used up"
        if self._ended >= _FAILURES and not self._points.values():
            return "failures"
        criteria = self._config.get("TuningJobCompletionCriteria", {})
        return reason_to_end(self._points, criteria, maximize=self._maximize)

    # The jobs

    def _job_name(self, pack: int) -> str:
        return f"{self._name}-{pack + 1:03d}"

    def _start(self, pack: int) -> None:
        drawn = self._points.draw(pack)
        self._running[pack] = [trial for trial, _ in drawn]
        points = [point for _, point in drawn]
        definition = training_part(self._record)
        request = {key: definition[key] for key in (*JOB_PARTS, "CheckpointConfig") if key in definition}
        request |= {
            "TrainingJobName": self._job_name(pack),
            "HyperParameters": self._pack.hyperparameters(self._static, points)
            | {"_tuning_objective_metric": self._metric},
            "TuningJobName": self._name,
        }
        if "SearchId" in self._record:  # searches of before 0.9.0 have none
            request["SearchId"] = self._record["SearchId"]
        self._place.start(request, cores=self._free_cores())
        for number, point in enumerate(points):
            job = request["TrainingJobName"]
            name = job if len(points) == 1 else member_name(job, number)
            self._log(f"{name} started: " + " ".join(f"{name}={value}" for name, value in point.items()))

    def _free_cores(self) -> list[int]:
        """A share of the cores that no running trial has; none where trials run one at a time."""
        if self._parallel == 1:
            return []
        left = shares(machine_cores(), self._parallel)
        for job in map(self._job_name, self._running):
            taken = self._place.describe(job)["Cores"] if self._place.has(job) else []
            if taken in left:
                left.remove(taken)
        return left[0]

    def _take_up(self, pack: int) -> None:
        """Takes up a job of a search that was killed or stopped: leaves it alone where it runs or ended."""
        job = self._job_name(pack)
        with contextlib.suppress(NoSuchJob):  # then it is started
            record = self._place.trial_record(job, self._record)
            self._running[pack] = [trial for trial, _ in self._points.draw(pack)]
            again = ("Interrupted",) if self._was_stopped_early(pack) else ("Interrupted", "Stopped")
            if record.get("SecondaryStatus") not in again:
                self._log(f"{job} {'ended meanwhile' if record['TrainingJobStatus'] in FINAL else 'goes on'}")
                return
            self._place.remove_trial(job, self._record)
        self._start(pack)

    def _was_stopped_early(self, pack: int) -> bool:
        return any("stopped_early" in trial.user_attrs for trial in self._running[pack])

    def _watch(self, pack: int) -> bool:
        """Looks at a running job; returns whether it ended and the study knows of it."""
        job = self._job_name(pack)
        record = self._place.describe(job)
        if len(self._running[pack]) == 1:
            self._follow_epochs(self._running[pack][0], record)
        if record["TrainingJobStatus"] not in FINAL:
            return False
        if record.get("SecondaryStatus") == "Interrupted" and self._restarts.get(pack, 0) < _RESTARTS:
            self._restarts[pack] = self._restarts.get(pack, 0) + 1
            self._log(f"{job} vanished and is started again")
            self._place.remove_trial(job, self._record)
            self._start(pack)
            return False
        if record["TrainingJobStatus"] == "Stopped" and self._stop_asked and not self._was_stopped_early(pack):
            return True  # its trials stay unfinished in the study: a search that goes on runs them again
        self._ended += 1
        for trial, ended in zip(self._running[pack], self._place.trials_of(record, self._record), strict=True):
            status, value = ended["TrainingJobStatus"], leaderboard.objective_value(ended)
            self._points.tell(trial, status, value, ended.get("Epochs"))
            reached = "" if value is None else f" {self._metric}={value:.6g}"
            reason = f": {ended['FailureReason']}" if status == "Failed" else ""
            self._log(f"{ended['TrainingJobName']} {status}{reached}{reason}")
        return True

    def _follow_epochs(self, trial: Trial, record: dict[str, Any]) -> None:
        """Tells the study what a job of one trial has measured so far, and stops it where its pruner says so."""
        values = self._place.metric_values(record, self._metric)
        known = len(self._points.frozen(trial).intermediate_values)
        for step, value in enumerate(values[known:], known + 1):
            trial.report(value, step)
            if (
                record["TrainingJobStatus"] == "InProgress"
                and "stopped_early" not in trial.user_attrs
                and not self._comes_once
                and trial.should_prune()
            ):
                trial.set_user_attr("stopped_early", True)
                job = record["TrainingJobName"]
                self._log(f"{job} stopped early at {self._metric}={value:.6g} after epoch {step}")
                self._place.stop(job)

    # The record

    def _ask_to_stop(self, *_):
        self._stop_asked = True

    def _log(self, text: str) -> None:
        print(f"{now()} {text}", flush=True)

    def _save(self) -> list[dict[str, Any]]:
        trials = self._place.trials(self._name)
        statuses = [trial["TrainingJobStatus"] for trial in trials]
        self._record["TrainingJobStatusCounters"] = {
            status: statuses.count(status) for status in ("Completed", "InProgress", "Stopped")
        } | {"NonRetryableError": statuses.count("Failed"), "RetryableError": 0}
        if best := leaderboard.best_of(trials, maximize=self._maximize):
            self._record["BestTrainingJob"] = best
        write_record(self._folder / TUNING_RECORD, self._record)
        return trials

    def fail(self, error: Exception) -> None:
        """Ends the search, but not its running trials, for a reason that is none of theirs."""
        self._record |= {
            "HyperParameterTuningJobStatus": "Failed",
            "HyperParameterTuningEndTime": now(),
            "FailureReason": f"{'' if isinstance(error, UserError) else f'{type(error).__name__}: '}{error}; "
            f"go on by tune --resume {self._name}",
        }
        try:
            write_record(self._folder / TUNING_RECORD, self._record)
        except OSError as refused:  # such as the full disk that ended the search
            self._log(f"the record cannot be written: {refused}; {self._record['FailureReason']}")

    def _finish(self, because: str) -> None:
        failed = because == "failures" or not self._points.values()
        status = "Stopped" if self._stop_asked else "Failed" if failed else "Completed"
        trials = self._place.trials(self._name)
        if status == "Failed":
            reasons = [trial["FailureReason"] for trial in trials if "FailureReason" in trial]
            self._record["FailureReason"] = (
                f"All training jobs failed; the last: {reasons[-1]}"
                if reasons
                else f"No training job printed {self._metric}"
            )
        elif because:
            self._record["CompletionReason"] = because
        self._record |= {"HyperParameterTuningJobStatus": status, "HyperParameterTuningEndTime": now()}
        self._record.pop("Luck", None)  # of before it was resumed
        if luck := luck_of_trials(
            trials, self._place.folder, maximize=self._maximize, parents=self._points.from_parents
        ):
            self._record["Luck"] = luck
        leaderboard.write_files(self._folder, self._record, trials)
        self._log(f"{self._name} {status}")
        self._save()  # last, since whoever waits reads the rest after it


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = Search(Path(sys.argv[1]))
    try:
        search.run()
    except Exception as error:
        search.fail(error)
        raise
