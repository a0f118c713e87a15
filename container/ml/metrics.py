"""Every metric, declared once: its name, its sentence, its format in the log and the regex that finds it there."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number printed as `name=value`, once an epoch or once a job."""

    name: str
    help: str
    goal: str | None = None  # Minimize or Maximize where it can be a tuning objective
    once: bool = False  # printed once a job, after its training

    @property
    def regex(self) -> str:
        """What finds the number in the log; anchored, so that `loss` is not found in `val_loss`."""
        return rf"(?:^|\s){self.name}=(\S+)"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("loss", "cross-entropy over the epoch's training windows, dropout on", "Minimize"),
        Metric("accuracy", "share of the epoch's training windows predicted right, dropout on", "Maximize"),
        Metric("val_loss", "cross-entropy over the validation windows", "Minimize"),
        Metric("val_accuracy", "share of the validation windows predicted right", "Maximize"),
        Metric("best_val_loss", "val_loss of the weights kept so far", "Minimize"),
        Metric("best_val_accuracy", "val_accuracy of the weights kept so far", "Maximize"),
        Metric("windows_per_second", "training windows a second"),
        # Of the model that is kept, on its held-out rows (`ml.judge.performance`)
        *(
            Metric(name, text, goal, once=True)
            for name, text, goal in (
                ("val_log_loss", "cross-entropy of the probabilities, in nats", "Minimize"),
                ("val_brier", "mean squared difference of the probability of buy from the label", "Minimize"),
                (
                    "val_ece",
                    "expected calibration error: mean distance of probability and share of buys, in ten bins",
                    "Minimize",
                ),
                ("val_auc", "area under the ROC curve", "Maximize"),
                ("val_baseline_accuracy", "accuracy of the best baseline", None),
                ("val_accuracy_gain", "accuracy minus the best baseline's", "Maximize"),
                ("val_accuracy_gain_low", "lower end of its 95 % interval; above 0: skill", "Maximize"),
                ("val_accuracy_gain_high", "upper end of its 95 % interval", None),
                (
                    "val_pnl",
                    "profit of following the predictions with one unit, spread paid, in price units",
                    "Maximize",
                ),
                ("val_sharpe", "its Sharpe ratio a year, of days", "Maximize"),
                ("val_max_drawdown", "its deepest fall from a peak, in price units", "Minimize"),
                ("val_turnover", "units it trades a day", "Minimize"),
            )
        ),
        # Means over the folds, of the weights that each keeps
        *(
            Metric(f"mean_{name}", f"mean over the folds of {text}", goal, once=True)
            for name, text, goal in (
                ("val_loss", "best_val_loss", "Minimize"),
                ("val_accuracy", "best_val_accuracy", "Maximize"),
                ("val_auc", "val_auc", "Maximize"),
                ("val_accuracy_gain", "val_accuracy_gain", "Maximize"),
                ("val_pnl", "val_pnl", "Maximize"),
                ("val_sharpe", "val_sharpe", "Maximize"),
            )
        ),
    )
}


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
    return f"epoch={epoch}/{epochs} {_shown(values)}"


def performance_line(values: Mapping[str, float]) -> str:
    """The line of the metrics that a job prints once; values as in `metric_line`."""
    return f"performance {_shown(values)}"


def _shown(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={values[name]:.6g}" for name in METRICS if name in values)
