"""A tuning job on this machine: the search that SageMaker would do, with Optuna, over jobs of a place.

`python search.py FOLDER LOCK` owns one tuning job, in a session of its own. Everything it knows is on disk
before it is acted on: Optuna's study in SQLite, the jobs in their folders. Killed at any moment and started
again, it adopts the jobs that still run, runs again under the same number those that died, and draws the
same points as if nothing had happened, since a draw is seeded with (RandomSeed, trial, hyperparameter).
"""

import contextlib
import itertools
import math
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL

import leaderboard
from ml.errors import UserError
from ml.metrics import METRICS
from place.base import FINAL, NoSuchJob
from place.find import make_place_here
from place.record import TUNING_RECORD, now, read_record, write_record
from request import objective_of, ranges_of, training_part
from search_rules import MedianRule, TunedRange
from trials_luck import luck_of_trials

_POLL_SECONDS = 0.2
_SAVE_SECONDS = 5  # how much of MaxRuntimeInSeconds a kill can make it forget
_PICTURE_SECONDS = 10  # between two drawings of the leaderboard's page, which takes half a second
_FAILURES = 3  # that many at the start, with no success, and the request is at fault
_RESTARTS = 3  # of one trial whose process vanishes

# What a tuning job's definition passes on to each of its jobs.
_PASSED_ON = (
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "CheckpointConfig",
    "Environment",
    "VpcConfig",
)


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
        self._ranges = [TunedRange(kind, entry) for kind, entry in ranges_of(self._record)]
        self._metric, self._maximize = objective_of(self._record)
        # Such a metric comes when the training is over: there is nothing to stop early.
        self._comes_once = self._metric in METRICS and METRICS[self._metric].once
        limits = self._config["ResourceLimits"]
        self._grid = (
            list(itertools.product(*(range_.choices for range_ in self._ranges)))
            if self._config["Strategy"] == "Grid"
            else []
        )
        self._most = len(self._grid) or limits["MaxNumberOfTrainingJobs"]
        self._parallel = limits["MaxParallelTrainingJobs"]
        self._most_seconds = limits.get("MaxRuntimeInSeconds", math.inf)
        self._running = dict[int, Trial]()
        self._restarts = dict[int, int]()
        self._stop_asked = False
        self._began = datetime.now()
        self._study = optuna.create_study(
            study_name=self._name,
            storage=URL.create("sqlite", database=str(folder / "search.db")).render_as_string(),
            load_if_exists=True,
            direction="maximize" if self._maximize else "minimize",
            pruner=self._make_pruner(),
        )
        self._warm_trials = self._take_over_parents()
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        """Starts, watches and stops trials until the search is over."""
        self._record |= {"HyperParameterTuningJobStatus": "InProgress", "SearchPid": os.getpid()}
        self._save()
        running = self._running
        running |= {
            trial.number: Trial(self._study, trial._trial_id)
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        }
        used, resumed = self._record.get("SecondsUsed", 0), time.monotonic()
        for trial in running.values():
            self._take_up(trial)
        because, stopping, saved, pictured = "", False, resumed, -math.inf
        while True:
            ended = [number for number, trial in running.items() if self._watch(trial)]
            for number in ended:
                del running[number]
            seconds = used + time.monotonic() - resumed
            because = because or self._reason_to_end(seconds)
            while not because and len(running) < self._parallel and self._count_asked() < self._most:
                trial = self._study.ask()
                running[trial.number] = trial
                self._start(trial)
            if because and not stopping:
                stopping = True
                self._log(f"ending: {because}")
                for trial in running.values():
                    self._place.stop(self._job_name(trial.number))
            if ended or time.monotonic() - saved > _SAVE_SECONDS:
                saved = time.monotonic()
                self._record["SecondsUsed"] = seconds
                trials = self._save()
                if ended and saved - pictured > _PICTURE_SECONDS:
                    pictured = saved
                    leaderboard.write_files(self._folder, self._record, trials)
            if not running and (because or self._count_asked() >= self._most):
                break
            time.sleep(_POLL_SECONDS)
        self._finish(because)

    # The search

    def _make_pruner(self) -> optuna.pruners.BasePruner:
        if self._config["Strategy"] == "Hyperband":
            resource = self._config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
            most = resource.get("MaxResource") or int(self._static["epochs"])
            return optuna.pruners.HyperbandPruner(resource.get("MinResource", 1), most)
        early = self._config.get("TrainingJobEarlyStoppingType", "Off") == "Auto"
        return MedianRule() if early else optuna.pruners.NopPruner()

    def _make_sampler(self, number: int, index: int) -> optuna.samplers.BaseSampler:
        """The sampler for one hyperparameter of one trial, both counted from 0.

        It is seeded by the two, so that a resumed search draws the same values.
        """
        seed = int(np.random.SeedSequence([self._record["RandomSeed"], number, index]).generate_state(1)[0])
        if self._grid:
            point = {range_.name: value for range_, value in zip(self._ranges, self._grid[number], strict=True)}
            return optuna.samplers.PartialFixedSampler(point, optuna.samplers.RandomSampler(seed))
        if self._config["Strategy"] == "Bayesian":
            # A search of 8 must not spend them all on random starts.
            starts = min(10, max(3, self._most // 3))
            return optuna.samplers.TPESampler(n_startup_trials=starts, seed=seed)
        return optuna.samplers.RandomSampler(seed)

    def _count_asked(self) -> int:
        """Trials drawn so far."""
        return len(self._study.get_trials(deepcopy=False)) - self._warm_trials

    def _take_over_parents(self) -> int:
        """Tells the study of the trials of earlier tuning jobs; returns how many, before any of its own."""
        known = {
            trial.user_attrs["parent"]
            for trial in self._study.get_trials(deepcopy=False)
            if "parent" in trial.user_attrs
        }
        count = len(known)
        parents = self._record.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        for parent in parents if self._count_own() == 0 else []:
            for trial in self._place.trials(parent["HyperParameterTuningJobName"]):
                objective = trial.get("FinalHyperParameterTuningJobObjectiveMetric", {})
                job, tuned = trial["TrainingJobName"], trial["TunedHyperParameters"]
                if (
                    job in known
                    or trial["TrainingJobStatus"] != "Completed"
                    or objective.get("MetricName") != self._metric
                ):
                    continue
                try:
                    self._study.add_trial(
                        optuna.trial.create_trial(
                            params={range_.name: range_.parse(tuned[range_.name]) for range_ in self._ranges},
                            distributions={range_.name: range_.distribution for range_ in self._ranges},
                            value=objective["Value"],
                            user_attrs={"parent": job},
                        )
                    )
                    count += 1
                except (KeyError, ValueError):
                    self._log(f"{job} lies outside this search's ranges and teaches it nothing")
        return count

    def _count_own(self) -> int:
        return sum("parent" not in trial.user_attrs for trial in self._study.get_trials(deepcopy=False))

    def _reason_to_end(self, seconds: float) -> str:
        """Why no further trial is to be started before the last; empty: go on."""
        if self._stop_asked:
            return "stopped"
        if seconds > self._most_seconds:
            return f"MaxRuntimeInSeconds, {self._most_seconds}, is used up"
        ended = [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished() and "parent" not in trial.user_attrs
        ]
        values = [trial.value for trial in ended if trial.value is not None]
        # Of this process: a search that failed may go on once the cause is mended.
        if sum(_end_of(trial) > self._began for trial in ended) >= _FAILURES and not values:
            return "failures"
        criteria = self._config.get("TuningJobCompletionCriteria", {})
        sign = 1 if self._maximize else -1
        target = criteria.get("TargetObjectiveMetricValue")
        if target is not None and values and max(sign * value for value in values) >= sign * target:
            return f"the objective reached its target, {target}"
        patience = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        if patience and values:
            ended.sort(key=_end_of)
            scores = [-math.inf if trial.value is None else sign * trial.value for trial in ended]
            if len(scores) - 1 - scores.index(max(scores)) >= patience:
                return f"{patience} jobs brought no better objective"
        return ""

    # The trials

    def _job_name(self, number: int) -> str:
        return f"{self._name}-{number - self._warm_trials + 1:03d}"

    def _start(self, trial: Trial) -> None:
        tuned = {}
        for index, range_ in enumerate(self._ranges):
            self._study.sampler = self._make_sampler(trial.number - self._warm_trials, index)
            tuned[range_.name] = range_.suggest(trial)
        definition = training_part(self._record)
        parameters = self._static | tuned | {"_tuning_objective_metric": self._metric}
        request = {key: definition[key] for key in _PASSED_ON if key in definition}
        request |= {
            "TrainingJobName": self._job_name(trial.number),
            "HyperParameters": parameters,
            "TuningJobName": self._name,
        }
        if "SearchId" in self._record:  # searches of before 0.9.0 have none
            request["SearchId"] = self._record["SearchId"]
        self._place.start(request, cores=self._free_cores())
        self._log(
            f"{self._job_name(trial.number)} started: " + " ".join(f"{name}={value}" for name, value in tuned.items())
        )

    def _free_cores(self) -> list[int]:
        """A share of the cores that no running trial has; none where trials run one at a time."""
        if self._parallel == 1:
            return []
        cores = sorted(os.sched_getaffinity(0))
        shares = [cores[slot :: self._parallel] or [cores[slot % len(cores)]] for slot in range(self._parallel)]
        for job in map(self._job_name, self._running):
            taken = self._place.describe(job)["Cores"] if self._place.has(job) else []
            if taken in shares:
                shares.remove(taken)
        return shares[0]

    def _take_up(self, trial: Trial) -> None:
        """Takes up a trial of a search that was killed or stopped: leaves it alone where it runs or ended."""
        job = self._job_name(trial.number)
        with contextlib.suppress(NoSuchJob):  # then it is started
            record = self._place.trial_record(job, self._record)
            early = self._study.get_trials(deepcopy=False)[trial.number].user_attrs.get("stopped_early")
            again = ("Interrupted",) if early else ("Interrupted", "Stopped")
            if record["SecondaryStatus"] not in again:
                self._log(f"{job} {'ended meanwhile' if record['TrainingJobStatus'] in FINAL else 'goes on'}")
                return
            self._place.remove_trial(job, self._record)
        self._start(trial)

    def _watch(self, trial: Trial) -> bool:
        """Tells the study what a running trial has measured; returns whether it ended."""
        job = self._job_name(trial.number)
        record = self._place.describe(job)
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        values = self._place.metric_values(record, self._metric)
        known = len(frozen.intermediate_values)
        for step, value in enumerate(values[known:], known + 1):
            trial.report(value, step)
            if (
                record["TrainingJobStatus"] == "InProgress"
                and "stopped_early" not in trial.user_attrs
                and not self._comes_once
                and trial.should_prune()
            ):
                trial.set_user_attr("stopped_early", True)
                self._log(f"{job} stopped early at {self._metric}={value:.6g} after epoch {step}")
                self._place.stop(job)
        status, secondary = record["TrainingJobStatus"], record["SecondaryStatus"]
        if status not in FINAL:
            return False
        if secondary == "Interrupted" and self._restarts.get(trial.number, 0) < _RESTARTS:
            self._restarts[trial.number] = self._restarts.get(trial.number, 0) + 1
            self._log(f"{job} vanished and is started again")
            self._place.remove_trial(job, self._record)
            self._start(trial)
            return False
        if status == "Stopped" and self._stop_asked and "stopped_early" not in trial.user_attrs:
            return True  # it stays unfinished in the study: a search that goes on runs it again
        if status == "Completed" and values and math.isfinite(values[-1]):
            self._study.tell(trial, values[-1])
        else:
            self._study.tell(trial, state=TrialState.PRUNED if status == "Stopped" else TrialState.FAIL)
        last = f" {self._metric}={values[-1]:.6g}" if values else ""
        self._log(f"{job} {status}{last}" + (f": {record['FailureReason']}" if status == "Failed" else ""))
        return True

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
        write_record(self._folder / TUNING_RECORD, self._record)

    def _finish(self, because: str) -> None:
        failed = because == "failures" or not any(
            trial.value is not None for trial in self._study.get_trials(deepcopy=False)
        )
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
        if luck := luck_of_trials(trials, self._place.folder, maximize=self._maximize, parents=self._warm_trials):
            self._record["Luck"] = luck
        leaderboard.write_files(self._folder, self._record, trials)
        self._log(f"{self._name} {status}")
        self._save()  # last, since whoever waits reads the rest after it


def _end_of(trial: FrozenTrial) -> datetime:
    return trial.datetime_complete or datetime.max


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = Search(Path(sys.argv[1]))
    try:
        search.run()
    except Exception as error:
        search.fail(error)
        raise
