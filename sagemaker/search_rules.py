"""SageMaker's rules of a search in Optuna's terms: ranges and their scalings, early stopping by the median."""

import math
import statistics
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from ml.settings import SETTINGS

_COMPARED = 3  # jobs that the median rule needs to compare with


class MedianRule(optuna.pruners.BasePruner):
    """SageMaker's early stopping: worse than the median of the others' running averages at that epoch."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial, as far as it is, should be stopped."""
        step = trial.last_step
        if step is None:
            return False
        value = trial.intermediate_values[step]
        averages = [
            statistics.fmean(values)
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            if step in other.intermediate_values
            for values in [
                [value for at, value in other.intermediate_values.items() if at <= step and math.isfinite(value)]
            ]
            if values
        ]
        if len(averages) < _COMPARED or not math.isfinite(value):
            return False
        median = statistics.median(averages)
        return value < median if study.direction == optuna.study.StudyDirection.MAXIMIZE else value > median


class TunedRange:
    """A tuned hyperparameter: between SageMaker's text and Optuna's number."""

    def __init__(self, kind: str, entry: dict[str, Any]):
        self.name = entry["Name"]
        self._reverse = False
        self.distribution = self._make_distribution(kind, entry)

    def _make_distribution(
        self, kind: str, entry: dict[str, Any]
    ) -> CategoricalDistribution | IntDistribution | FloatDistribution:
        if kind == "CategoricalParameterRanges":
            return CategoricalDistribution([str(value) for value in entry["Values"]])
        low, high = float(entry["MinValue"]), float(entry["MaxValue"])
        scaling = entry.get("ScalingType", "Auto")
        if scaling == "Auto" and self.name in SETTINGS:
            scaling = SETTINGS[self.name].metadata["scaling"]
        log = scaling == "Logarithmic" and low > 0
        if kind == "IntegerParameterRanges":
            return IntDistribution(int(low), int(high), log=log)
        if scaling == "ReverseLogarithmic":  # logarithmic in the distance from 1
            self._reverse = True
            return FloatDistribution(1 - high, 1 - low, log=True)
        return FloatDistribution(low, high, log=log)

    @property
    def choices(self) -> list[str]:
        """Of a categorical range; others have none."""
        return list(map(str, getattr(self.distribution, "choices", ())))

    def suggest(self, trial: Trial) -> str:
        """Draws a value for a trial, as SageMaker's text."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return str(trial.suggest_categorical(self.name, distribution.choices))
        if isinstance(distribution, IntDistribution):
            return str(trial.suggest_int(self.name, distribution.low, distribution.high, log=distribution.log))
        value = trial.suggest_float(self.name, distribution.low, distribution.high, log=distribution.log)
        return repr(1 - value if self._reverse else value)

    def parse(self, text: str) -> str | int | float:
        """Optuna's value for SageMaker's text."""
        if isinstance(self.distribution, CategoricalDistribution):
            return text
        if isinstance(self.distribution, IntDistribution):
            return int(text)
        return 1 - float(text) if self._reverse else float(text)
