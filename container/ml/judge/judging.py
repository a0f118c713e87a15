"""What the models of a job's folds are worth: measured, printed, and made into the report."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.errors import one_line
from ml.log import say
from ml.metrics import performance_line
from ml.settings import Settings


def judge_models(
    folds, outcome, settings: Settings, record: Any, metrics: Any, keep: Callable[[], None], output: Path
) -> None:
    """Measures each fold's model on its held-out rows, prints what came of the last one's, writes the report's page.

    The model is safe by then: whatever fails is told in a line and costs the report alone.

    Args:
        folds: of the history, as `ml.learn.folds.folds_of` cuts it.
        outcome: what came of training them all, none stopped.
        settings: of the job.
        record: job.json.
        metrics: metrics.json, which gets `performance` and `folds`.
        keep: writes metrics.json.
        output: the folder of the page.
    """
    try:
        # SciPy takes a moment to import that the first epoch need not wait for.
        from ml.judge.bars import bar_length
        from ml.judge.performance import fold_row, mean_metrics, measure
        from ml.judge.report import write_report

        bar = bar_length(folds[-1].history.index)
        performances = [
            measure(fold.history, len(fold.train_rows), probability, settings, bar)
            for fold, probability in zip(folds, [*outcome.probabilities, outcome.kept.predict()], strict=True)
        ]
        table = [
            fold_row(
                fold.number,
                len(fold.train_rows),
                fold.validation_rows,
                result.best_epoch,
                result.history[result.best_epoch - 1],
                performance,
            )
            for fold, result, performance in zip(folds, outcome.results, performances, strict=True)
        ]
        last = performances[-1]
        numbers = last.metrics | mean_metrics(table)
        say(performance_line(numbers), metrics=True)
        say(last.verdict)
        say(last.profit_verdict)
        metrics |= {"performance": {"metrics": numbers} | last.as_json(), "folds": table}
        keep()
        page = write_report(output, record, metrics, folds[-1].history, last)
        say(f"report: {page}")
    except Exception as error:
        traceback.print_exc()
        say(f"NO REPORT: {one_line(error)}; the model is whole")
