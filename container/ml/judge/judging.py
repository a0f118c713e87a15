"""What the models of a job's folds are worth: measured, printed, and made into the report."""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.errors import one_line
from ml.files import write_json
from ml.log import say
from ml.metrics import METRICS, performance_line, rounded
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.judge.performance import Performance

_MEAN = "mean_"


def judge_models(
    folds, outcome, settings: Settings, record: dict[str, Any], metrics: dict[str, Any], model: Path, output: Path
) -> None:
    """Measures each fold's model on its held-out rows, prints what came of the last one's, writes the report's page.

    The model is safe by then: whatever fails is told in a line and costs the report alone.

    Args:
        folds: of the history, as `ml.learn.folds.folds_of` cuts it.
        outcome: what came of training them all, none stopped.
        settings: of the job.
        record: job.json.
        metrics: metrics.json, which gets `performance` and `folds` and is written again.
        model: the folder of metrics.json.
        output: the folder of the page.
    """
    try:
        # SciPy takes a moment to import that the first epoch need not wait for.
        from ml.judge.performance import measured
        from ml.judge.report import write_report

        performances = [
            measured(fold.history, len(fold.train_rows), probability, settings)
            for fold, probability in zip(folds, [*outcome.probabilities, outcome.kept.predict()], strict=True)
        ]
        last, table = performances[-1], fold_table(folds, outcome.results, performances)
        numbers = last.metrics | mean_metrics(table)
        say(performance_line(numbers), metrics=True)
        say(last.verdict)
        say(last.profit_verdict)
        metrics |= {"performance": {"metrics": numbers} | last.as_json(), "folds": table}
        write_json(model / "metrics.json", metrics)
        page = write_report(output, record, metrics, folds[-1].history, last)
        say(f"report: {page}")
    except Exception as error:
        traceback.print_exc()
        say(f"NO REPORT: {one_line(error)}; the model in {model} is whole")


def fold_table(folds, results, performances: "Sequence[Performance]") -> list[dict[str, Any]]:
    """A row a fold: its rows and time, the epoch kept and its scores, the numbers that are printed once."""
    return [
        {
            "fold": fold.number,
            "train_rows": len(fold.train_rows),
            "validation_rows": len(fold.validation_rows),
            "first": str(fold.validation_rows.index[0]),
            "last": str(fold.validation_rows.index[-1]),
            "best_epoch": result.best_epoch,
            **{name: result.history[result.best_epoch - 1][name] for name in ("val_loss", "val_accuracy")},
            **performance.metrics,
            "best_baseline": performance.best_baseline,
            "verdict": performance.verdict,
        }
        for fold, result, performance in zip(folds, results, performances, strict=True)
    ]


def mean_metrics(table: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The means over the folds that `ml.metrics.METRICS` declares."""
    return {
        name: rounded(float(np.mean([row[name.removeprefix(_MEAN)] for row in table])))
        for name in METRICS
        if name.startswith(_MEAN)
    }
