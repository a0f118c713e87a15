"""Every metric, declared once: its name, what it means, its format in the log and the regex that finds it there.

Other modules use the constants (`VAL_LOSS`), which hold the names. The launcher, the report and the tests read
`METRICS`, which holds the declarations in the order in which they are printed.
"""

import dataclasses
from collections.abc import Mapping

TRAINING, VALIDATION, PERFORMANCE, FOLDS, TEST = "training", "validation", "performance", "folds", "test"

# Titles of the groups, in the order in which consoles show them.
GROUPS = {
    TRAINING: "training",
    VALIDATION: "validation, by epoch",
    PERFORMANCE: "the kept model on the validation part",
    FOLDS: "means over the folds",
    TEST: "the kept model on the test part",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number printed as `name=value`, once an epoch or once a job.

    Attributes:
        name: in the log, in metrics.json and in SageMaker.
        title: for people, as a column's head.
        help: what it is, with its unit.
        goal: Minimize or Maximize where it can be a tuning objective.
        group: one of `GROUPS`.
        mean_of: the metric whose mean over the folds it is; empty where it is none.
    """

    name: str
    title: str
    help: str
    goal: str | None
    group: str
    mean_of: str = ""

    @property
    def once(self) -> bool:
        """Whether it is printed once a job, after the training; the others are printed once an epoch."""
        return self.group in (PERFORMANCE, FOLDS, TEST)

    @property
    def regex(self) -> str:
        """What finds the number in the log; anchored, so that `loss` is not found in `val_loss`."""
        return rf"(?:^|\s){self.name}=(\S+)"

    def text(self, value: float) -> str:
        """The number as the log shows it, where `regex` finds it."""
        return f"{self.name}={value:.6g}"


METRICS: dict[str, Metric] = {}


def _declared(name: str, title: str, text: str, goal: str | None, group: str, mean_of: str = "") -> str:
    """Adds a metric to `METRICS` and returns its name."""
    METRICS[name] = Metric(name, title, text, goal, group, mean_of)
    return name


LOSS = _declared(
    "loss", "training loss", "cross-entropy over the epoch's training windows, dropout on", "Minimize", TRAINING
)
ACCURACY = _declared(
    "accuracy",
    "training accuracy",
    "share of the epoch's training windows predicted right, dropout on",
    "Maximize",
    TRAINING,
)
VAL_LOSS = _declared("val_loss", "loss", "cross-entropy over the validation windows", "Minimize", VALIDATION)
VAL_ACCURACY = _declared(
    "val_accuracy", "accuracy", "share of the validation windows predicted right", "Maximize", VALIDATION
)
BEST_VAL_LOSS = _declared("best_val_loss", "loss kept", "val_loss of the weights kept so far", "Minimize", VALIDATION)
BEST_VAL_ACCURACY = _declared(
    "best_val_accuracy", "accuracy kept", "val_accuracy of the weights kept so far", "Maximize", VALIDATION
)
WINDOWS_PER_SECOND = _declared("windows_per_second", "windows a second", "training windows a second", None, TRAINING)

# Of the kept model on its validation rows (`ml.judge.performance`)
VAL_LOG_LOSS = _declared(
    "val_log_loss", "log-loss", "cross-entropy of the probabilities, in nats", "Minimize", PERFORMANCE
)
VAL_BRIER = _declared(
    "val_brier",
    "Brier score",
    "mean squared difference of the probability of buy from the label",
    "Minimize",
    PERFORMANCE,
)
VAL_ECE = _declared(
    "val_ece",
    "calibration error",
    "expected calibration error: mean distance of probability and share of buys, in ten bins",
    "Minimize",
    PERFORMANCE,
)
VAL_AUC = _declared("val_auc", "ROC AUC", "area under the ROC curve", "Maximize", PERFORMANCE)
VAL_BASELINE_ACCURACY = _declared(
    "val_baseline_accuracy", "best baseline's accuracy", "accuracy of the best baseline", None, PERFORMANCE
)
VAL_ACCURACY_GAIN = _declared(
    "val_accuracy_gain", "gain", "accuracy minus the best baseline's", "Maximize", PERFORMANCE
)
VAL_ACCURACY_GAIN_LOW = _declared(
    "val_accuracy_gain_low", "at least", "lower end of its 95 % interval; above 0: skill", "Maximize", PERFORMANCE
)
VAL_ACCURACY_GAIN_HIGH = _declared(
    "val_accuracy_gain_high", "at most", "upper end of its 95 % interval", None, PERFORMANCE
)
VAL_DECIDED_ACCURACY = _declared(
    "val_decided_accuracy",
    "accuracy on decided bars",
    "share predicted right of the bars whose optimal position is certain there and not carried on; chance gives 0.5",
    "Maximize",
    PERFORMANCE,
)
VAL_DECIDED_ACCURACY_LOW = _declared(
    "val_decided_accuracy_low",
    "at least, on decided bars",
    "lower end of its 95 % interval; above 0.5: skill",
    "Maximize",
    PERFORMANCE,
)
VAL_DECIDED_ACCURACY_HIGH = _declared(
    "val_decided_accuracy_high", "at most, on decided bars", "upper end of its 95 % interval", None, PERFORMANCE
)
VAL_DECIDED_LOSS = _declared(
    "val_decided_loss",
    "log-loss on decided bars",
    "cross-entropy of the probabilities on decided bars, in nats; chance gives 0.693",
    "Minimize",
    PERFORMANCE,
)
VAL_PNL = _declared(
    "val_pnl",
    "profit",
    "profit of following the predictions with one unit, less half the spread and the fee, in price units",
    "Maximize",
    PERFORMANCE,
)
VAL_SHARPE = _declared(
    "val_sharpe",
    "Sharpe ratio a year",
    "its Sharpe ratio a year, of days; nan where the rows are too few for an interval",
    "Maximize",
    PERFORMANCE,
)
VAL_MAX_DRAWDOWN = _declared(
    "val_max_drawdown", "deepest drawdown", "its deepest fall from a peak, in price units", "Minimize", PERFORMANCE
)
VAL_TURNOVER = _declared("val_turnover", "units traded a day", "units it trades a day", "Minimize", PERFORMANCE)

# Means over the folds, of the weights that each keeps; of a single fold its own numbers
MEAN_VAL_LOSS = _declared(
    "mean_val_loss", "mean loss", "mean over the folds of best_val_loss", "Minimize", FOLDS, VAL_LOSS
)
MEAN_VAL_ACCURACY = _declared(
    "mean_val_accuracy", "mean accuracy", "mean over the folds of best_val_accuracy", "Maximize", FOLDS, VAL_ACCURACY
)
MEAN_VAL_AUC = _declared("mean_val_auc", "mean ROC AUC", "mean over the folds of val_auc", "Maximize", FOLDS, VAL_AUC)
MEAN_VAL_ACCURACY_GAIN = _declared(
    "mean_val_accuracy_gain",
    "mean gain",
    "mean over the folds of val_accuracy_gain",
    "Maximize",
    FOLDS,
    VAL_ACCURACY_GAIN,
)
MEAN_VAL_DECIDED_ACCURACY = _declared(
    "mean_val_decided_accuracy",
    "mean accuracy on decided bars",
    "mean over the folds of val_decided_accuracy",
    "Maximize",
    FOLDS,
    VAL_DECIDED_ACCURACY,
)
MEAN_VAL_PNL = _declared("mean_val_pnl", "mean profit", "mean over the folds of val_pnl", "Maximize", FOLDS, VAL_PNL)
MEAN_VAL_SHARPE = _declared(
    "mean_val_sharpe", "mean Sharpe ratio a year", "mean over the folds of val_sharpe", "Maximize", FOLDS, VAL_SHARPE
)

# Of the kept model on its test rows, where there is a test part; no objectives, since a choice by them would spoil it.
# Only what tells most: SageMaker takes 40 metrics, and metrics.json has all.
TEST_ACCURACY = _declared("test_accuracy", "accuracy", "share of the test windows predicted right", None, TEST)
TEST_LOG_LOSS = _declared("test_log_loss", "log-loss", "cross-entropy of the probabilities, in nats", None, TEST)
TEST_ACCURACY_GAIN = _declared("test_accuracy_gain", "gain", "accuracy minus the best baseline's", None, TEST)
TEST_ACCURACY_GAIN_LOW = _declared(
    "test_accuracy_gain_low", "at least", "lower end of its 95 % interval; above 0: skill", None, TEST
)
TEST_ACCURACY_GAIN_HIGH = _declared("test_accuracy_gain_high", "at most", "upper end of its 95 % interval", None, TEST)
TEST_DECIDED_ACCURACY = _declared(
    "test_decided_accuracy", "accuracy on decided bars", "as val_decided_accuracy", None, TEST
)
TEST_PNL = _declared("test_pnl", "profit", "as val_pnl", None, TEST)
TEST_PNL_LATER = _declared(
    "test_pnl_later", "profit one bar later", "test_pnl where every trade is made one bar later", None, TEST
)
TEST_SHARPE = _declared("test_sharpe", "Sharpe ratio a year", "as val_sharpe", None, TEST)


def metric_definitions() -> list[dict[str, str]]:
    """MetricDefinitions of a SageMaker request, one for each declared metric."""
    return [{"Name": metric.name, "Regex": metric.regex} for metric in METRICS.values()]


def rounded(value: float) -> float:
    """The value to the six significant digits that are printed and stored."""
    return float(f"{value:.6g}")


def metric_line(epoch: int, epochs: int, values: Mapping[str, float]) -> str:
    """One epoch's line in the log, in the order of the declaration.

    Args:
        epoch: the epoch just ended, from 1.
        epochs: how many the job asks for.
        values: metric name to value, rounded; only declared names.
    """
    return f"epoch={epoch}/{epochs} {_texts(values)}"


def performance_line(values: Mapping[str, float]) -> str:
    """The line of the metrics that a job prints once; values as in `metric_line`."""
    return f"performance {_texts(values)}"


def grouped(values: Mapping[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Metrics in groups for a console: title of the group to metric name to value.

    Groups and metrics are in the order of the declaration; a group without a value is left out. What is not
    declared, such as a metric of a user's own script, comes last, under the title "other".
    """
    groups = {
        title: {name: values[name] for name, metric in METRICS.items() if metric.group == group and name in values}
        for group, title in GROUPS.items()
    } | {"other": {name: value for name, value in values.items() if name not in METRICS}}
    return {title: group for title, group in groups.items() if group}


def _texts(values: Mapping[str, float]) -> str:
    return " ".join(metric.text(values[name]) for name, metric in METRICS.items() if name in values)
