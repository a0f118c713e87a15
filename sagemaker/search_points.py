"""The points that a search tries: Optuna's study in SQLite, and the packs that they are drawn and trained in.

A pack is the trials of one job: one trial, or the members of a population. A draw is seeded with (RandomSeed, trial,
hyperparameter) and is on disk before a job gets it, so that a search which was killed draws the same points again.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL

from ml.settings import VARIED
from request import objective_of, ranges_of
from search_rules import MedianRule, TunedRange


class Points:
    """The study of one tuning job.

    Args:
        folder: the tuning job's.
        record: the tuning job's.

    Attributes:
        packs: of each job the numbers of its trials, from 0. The trials of a pack share what a population cannot vary.
        count: trials in all.
    """

    def __init__(self, folder: Path, record: dict[str, Any]):
        self._config = record["HyperParameterTuningJobConfig"]
        self._seed = record["RandomSeed"]
        self._epochs = record["TrainingJobDefinition"].get("StaticHyperParameters", {}).get("epochs")
        self._metric, maximize = objective_of(record)
        self._ranges = [TunedRange(kind, entry) for kind, entry in ranges_of(record)]
        size = record.get("Pack", 1)
        self._packed = size > 1
        self._shared = [range_.name for range_ in self._ranges if self._packed and range_.name not in VARIED]
        self._grid = self._make_grid() if self._config["Strategy"] == "Grid" else []
        self.count = len(self._grid) or self._config["ResourceLimits"]["MaxNumberOfTrainingJobs"]
        self.packs = self._make_packs(size)
        self.study = optuna.create_study(
            study_name=record["HyperParameterTuningJobName"],
            storage=URL.create("sqlite", database=str(folder / "search.db")).render_as_string(),
            load_if_exists=True,
            direction="maximize" if maximize else "minimize",
            pruner=self._make_pruner(),
        )
        self._from_parents = sum("parent" in trial.user_attrs for trial in self.study.get_trials(deepcopy=False))

    def own(self) -> list[FrozenTrial]:
        """The trials of this search so far, by their numbers; those of earlier searches come before them."""
        return self.study.get_trials(deepcopy=False)[self._from_parents :]

    def frozen(self, trial: Trial) -> FrozenTrial:
        """A trial as it is in the study."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def unfinished_packs(self) -> list[int]:
        """The packs that were drawn, wholly or in part, and have trials without an outcome."""
        running = {number for number, trial in enumerate(self.own()) if trial.state == TrialState.RUNNING}
        return [index for index, pack in enumerate(self.packs) if running.intersection(pack)]

    def next_pack(self) -> int | None:
        """The first pack of which nothing was drawn yet; None: all were."""
        drawn = len(self.own())
        return next((index for index, pack in enumerate(self.packs) if pack[0] >= drawn), None)

    def draw(self, pack: int) -> list[tuple[Trial, dict[str, str]]]:
        """The trials of a pack, each with its point as SageMaker's texts; what was drawn before is as it was."""
        drawn = list[tuple[Trial, dict[str, str]]]()
        for number in self.packs[pack]:
            known = self.own()
            trial = Trial(self.study, known[number]._trial_id) if number < len(known) else self.study.ask()
            shared = {name: drawn[0][0].params[name] for name in self._shared} if drawn else {}
            drawn.append((trial, self._suggest(trial, number, shared)))
        return drawn

    def _suggest(self, trial: Trial, number: int, shared: dict[str, Any]) -> dict[str, str]:
        point = {}
        for index, range_ in enumerate(self._ranges):
            self.study.sampler = self._make_sampler(number, index, shared)
            point[range_.name] = range_.suggest(trial)
        return point

    def _make_sampler(self, number: int, index: int, shared: dict[str, Any]) -> optuna.samplers.BaseSampler:
        """The sampler for one hyperparameter of one trial, both counted from 0.

        It is seeded by the two, so that a resumed search draws the same values.
        """
        seed = int(np.random.SeedSequence([self._seed, number, index]).generate_state(1)[0])
        if self._grid:
            shared = {range_.name: value for range_, value in zip(self._ranges, self._grid[number], strict=True)}
        if shared:
            return optuna.samplers.PartialFixedSampler(shared, self._free_sampler(seed))
        return self._free_sampler(seed)

    def _free_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._config["Strategy"] != "Bayesian":
            return optuna.samplers.RandomSampler(seed)
        # A search of 8 must not spend them all on random starts.
        starts = min(10, max(3, self.count // 3))
        # The points of a pack are drawn before any of them is measured: each keeps away from those before it.
        return optuna.samplers.TPESampler(n_startup_trials=starts, seed=seed, constant_liar=self._packed)

    def _make_grid(self) -> list[tuple[str, ...]]:
        """The points of a grid; those that one population can train are together."""
        grid = list(itertools.product(*(range_.choices for range_ in self._ranges)))
        return sorted(grid, key=self._shared_values)

    def _shared_values(self, point: Sequence[str]) -> list[str]:
        return [value for range_, value in zip(self._ranges, point, strict=True) if range_.name in self._shared]

    def _make_packs(self, size: int) -> list[list[int]]:
        def shared(number: int) -> list[str]:
            return self._shared_values(self._grid[number]) if self._grid else []

        packs = list[list[int]]()
        for _, group in itertools.groupby(range(self.count), shared):
            numbers = list(group)
            packs += [numbers[first : first + size] for first in range(0, len(numbers), size)]
        return packs

    def _make_pruner(self) -> optuna.pruners.BasePruner:
        if self._config["Strategy"] == "Hyperband":
            resource = self._config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
            most = resource.get("MaxResource") or int(self._epochs)
            return optuna.pruners.HyperbandPruner(resource.get("MinResource", 1), most)
        early = self._config.get("TrainingJobEarlyStoppingType", "Off") == "Auto"
        return MedianRule() if early else optuna.pruners.NopPruner()

    def learn_from(self, trials: Sequence[dict[str, Any]], log: Callable[[str], None]) -> None:
        """Tells the study of the trials of an earlier tuning job, as far as they fit, unless it was told before."""
        if self.own():
            return
        known = {trial.user_attrs.get("parent") for trial in self.study.get_trials(deepcopy=False)}
        for trial in trials:
            objective = trial.get("FinalHyperParameterTuningJobObjectiveMetric", {})
            job, tuned = trial["TrainingJobName"], trial["TunedHyperParameters"]
            completed = trial["TrainingJobStatus"] == "Completed"
            if job in known or not completed or objective.get("MetricName") != self._metric:
                continue
            try:
                self.study.add_trial(
                    optuna.trial.create_trial(
                        params={range_.name: range_.parse(tuned[range_.name]) for range_ in self._ranges},
                        distributions={range_.name: range_.distribution for range_ in self._ranges},
                        value=objective["Value"],
                        user_attrs={"parent": job},
                    )
                )
                self._from_parents += 1
            except (KeyError, ValueError):
                log(f"{job} lies outside this search's ranges and teaches it nothing")

    def tell(self, trial: Trial, status: str, value: float | None, epochs: int | None = None) -> None:
        """Tells the study how a trial ended.

        Args:
            trial: the trial; one whose outcome the study has is passed over.
            status: Completed, Stopped or Failed.
            value: its objective; None: it has none.
            epochs: that it trained, where the study was not told of each of them.
        """
        if self.frozen(trial).state.is_finished():
            return
        if status == "Completed" and value is not None:
            self.study.tell(trial, value)
            return
        if status == "Stopped" and value is not None and epochs:
            trial.report(value, epochs)
        self.study.tell(trial, state=TrialState.PRUNED if status == "Stopped" else TrialState.FAIL)

    def values(self) -> list[float]:
        """The objectives that this search's trials reached; of one that was stopped its last."""
        return [trial.value for trial in self.own() if trial.state.is_finished() and trial.value is not None]


def reason_to_end(points: Points, criteria: dict[str, Any], *, maximize: bool) -> str:
    """Why a search's completion criteria end it; empty: they do not."""
    values, sign = points.values(), 1 if maximize else -1
    target = criteria.get("TargetObjectiveMetricValue")
    if target is not None and values and max(sign * value for value in values) >= sign * target:
        return f"the objective reached its target, {target}"
    patience = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
    if patience and values:
        ended = sorted((trial for trial in points.own() if trial.datetime_complete), key=_end)
        scores = [-math.inf if trial.value is None else sign * trial.value for trial in ended]
        if len(scores) - 1 - scores.index(max(scores)) >= patience:
            return f"{patience} jobs brought no better objective"
    return ""


def _end(trial: FrozenTrial) -> Any:
    return trial.datetime_complete
