import re

import pytest

from ml import metrics
from ml.metrics import FOLDS, GROUPS, METRICS, PERFORMANCE, TEST, grouped, metric_line, performance_line


def test_every_constant_is_a_declared_metric_and_every_metric_has_one():
    declared = {name.lower() for name, value in vars(metrics).items() if name.lower() == value and value in METRICS}
    assert declared == set(METRICS)


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_regex_finds_its_own_number_and_no_other(metric):
    line = metric_line(1, 2, {name: float(i) for i, name in enumerate(METRICS)})
    assert re.findall(metric.regex, line) == [str(list(METRICS).index(metric.name))]
    assert metric.title and metric.help and metric.group in GROUPS


def test_metrics_are_grouped_for_a_console_and_empty_groups_left_out():
    values = {"val_pnl": -1.5, "loss": 0.5, "windows_per_second": 9.0, "best_val_loss": None, "my_own": 3.0}
    assert grouped(values) == {
        "training": {"loss": 0.5, "windows_per_second": 9.0},
        "validation, by epoch": {"best_val_loss": None},
        "the kept model on the validation part": {"val_pnl": -1.5},
        "other": {"my_own": 3.0},
    }


def test_what_comes_once_is_measured_after_the_training():
    once = {name for name, metric in METRICS.items() if metric.once}
    assert once == {name for name, metric in METRICS.items() if metric.group in (PERFORMANCE, FOLDS, TEST)}
    assert all(METRICS[name].mean_of == name.removeprefix("mean_") for name in once if name.startswith("mean_"))
    assert performance_line({"val_pnl": 1234567.0, "val_auc": 0.5}) == "performance val_auc=0.5 val_pnl=1.23457e+06"
