"""What the models of a job's folds are worth: measured, printed, and made into the report."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ml.bars import bar_length
from ml.errors import UserError, one_line
from ml.log import say
from ml.metrics import performance_line
from ml.segments import instrument_slices
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.judge.instruments import Instrument


class Judged(NamedTuple):
    """The part of a history that a job's model is judged on: the test part, or where there is none the validation part.

    Attributes:
        part: test or validation.
        fold: whose held-out rows they are (`ml.learn.folds.Fold`).
        predict: what the model that is kept says about them.
    """

    part: str
    fold: Any
    predict: Callable[[], tuple[np.ndarray, np.ndarray]]


def judge_models(
    folds,
    outcome,
    judged: Judged,
    settings: Settings,
    record: Any,
    metrics: Any,
    keep: Callable[[], None],
    count_look: Callable[[], Mapping[str, Any]],
    output: Path,
) -> None:
    """Measures each fold's model on its validation rows and the last one's on the part that it is judged on.

    Prints what came of it and writes the report's page. The model is safe by then: whatever fails is told in a line and
    costs the report alone.

    Args:
        folds: of the history, as `ml.learn.folds.folds_of` cuts it.
        outcome: what came of training them all, none stopped.
        judged: what the verdict, the report and positions.parquet are of.
        settings: of the job.
        record: job.json.
        metrics: metrics.json, which gets `performance` and `folds`, and `validation` where there is a test part.
        keep: writes metrics.json.
        count_look: records that the test part is looked at; gives what `performance` says of that.
        output: the folder of the page.
    """
    try:
        # SciPy takes a moment to import that the first epoch need not wait for.
        from ml.judge.performance import TEST, fold_row, mean_metrics, measure
        from ml.judge.report import write_report

        bar = bar_length(judged.fold.history.index)
        validated, results, predictions = [], [], []
        if settings.validation_fraction:
            validated, results = folds, outcome.results
            predictions = [*outcome.predicted, outcome.kept.predict()]
        performances = [
            measure(instruments_of(fold, predicted), settings, bar)
            for fold, predicted in zip(validated, predictions, strict=True)
        ]
        table = [
            fold_row(
                fold.number,
                fold.counts,
                fold.validation_rows.index,
                result.best_epoch,
                result.history[result.best_epoch - 1],
                performance,
            )
            for fold, result, performance in zip(validated, results, performances, strict=True)
        ]
        numbers = performances[-1].metrics | mean_metrics(table) if validated else {}
        look: Mapping[str, Any] = {}
        if judged.part == TEST:
            if validated:
                metrics["validation"] = performances[-1].as_json()
            tested = measure(instruments_of(judged.fold, judged.predict()), settings, bar, TEST)
            look = count_look()
            numbers |= tested.metrics
            performances.append(tested)
        found = performances[-1]
        say(performance_line(numbers), metrics=True)
        for line in (found.verdict, found.profit_verdict, look.get("look")):
            if line:
                say(line)
        metrics |= {"performance": {"metrics": numbers} | found.as_json() | dict(look), "folds": table}
        keep()
        page = write_report(output, record, metrics, judged.fold.history, found)
        say(f"report: {page}")
    except Exception as error:
        traceback.print_exc()
        say(f"NO REPORT: {one_line(error)}; the model is whole")


def instruments_of(fold, predicted: tuple[np.ndarray, np.ndarray]) -> "list[Instrument]":
    """Each instrument's rows up to the last one that is held out, and what a fold's model predicts there.

    Raises:
        UserError: a prediction is no number.
    """
    from ml.judge.instruments import Instrument
    from ml.judge.performance import DIVERGED

    rows, probability = predicted
    if not np.isfinite(probability).all():
        raise UserError(DIVERGED)
    of_rows = np.full(fold.counts[1], np.nan, np.float32)
    of_rows[rows] = probability
    found, first = [], 0
    for (name, whole), trained, held_out in zip(instrument_slices(fold.prices).items(), *fold.parts, strict=True):
        count = held_out.stop - held_out.start
        found.append(
            Instrument(
                fold.prices.iloc[whole.start : held_out.stop],
                trained.stop - trained.start,
                of_rows[first : first + count],
                name,
            )
        )
        first += count
    return found
