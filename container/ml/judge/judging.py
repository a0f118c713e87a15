"""What the models of a job's folds are worth: measured, printed, and made into the report."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ml.bars import bar_length
from ml.errors import UserError, one_line
from ml.log import say
from ml.metrics import performance_line, rounded
from ml.segments import instrument_slices
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.judge.daily import Members
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
    members: "Members | None" = None,
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
        metrics: metrics.json, which gets `performance` and `folds`, `validation` where there is a test part, `daily`
            where there is validation, and of a population `luck`.
        keep: writes metrics.json.
        count_look: records that the test part is looked at; gives what `performance` says of that.
        output: the folder of the page.
        members: what all members of a population predict for the last fold's validation rows; None: it is none.
    """
    try:
        # SciPy takes a moment to import that the first epoch need not wait for.
        from ml.judge.daily import block_days, daily_of, daily_of_members, luck_of_members
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
        if validated:  # of which every choice was made, so the luck in it is told by these rows
            last = performances[-1]
            metrics["daily"] = daily_of(last.daily, last.block, bar)
            if members:
                instruments = instruments_of(folds[-1], (members.rows, members.probabilities[0]))
                daily = daily_of_members(instruments, members, settings)
                metrics["daily"]["members"] = {str(number): list(map(rounded, daily[number])) for number in daily}
                rule = last.daily[last.best_baseline]
                metrics["luck"] = luck_of_members(daily, members, rule, block_days(last.block, bar))
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
        for line in (found.decided_verdict, found.verdict, found.profit_verdict, look.get("look")):
            if line:
                say(line)
        if "luck" in metrics:
            say(metrics["luck"]["verdict"])
        metrics |= {"performance": {"metrics": numbers} | found.as_json() | dict(look), "folds": table}
        keep()
        page = write_report(output, record, metrics, judged.fold.history, found)
        say(f"report: {page}")
    except Exception as error:
        traceback.print_exc()
        say(f"NO REPORT: {one_line(error)}; the model is whole")


def keep_daily_results(
    fold,
    predict: Callable[[], tuple[np.ndarray, np.ndarray]],
    settings: Settings,
    metrics: Any,
    keep: Callable[[], None],
) -> None:
    """Adds `daily` to the metrics of a job that is asked to end, so that a search can use it as one of its tries.

    No rule is fitted for it: there is little time left. Whatever fails costs these results alone.

    Args:
        fold: the only one.
        predict: what predicts its validation rows (`ml.learn.folds.Trained.predict`).
        settings: of the job.
        metrics: metrics.json.
        keep: writes metrics.json.
    """
    try:
        from ml.judge.daily import daily_of, daily_of_model
        from ml.judge.performance import block_of

        bar = bar_length(fold.history.index)
        daily = daily_of_model(instruments_of(fold, predict()), settings)
        metrics["daily"] = daily_of(daily, block_of(settings.horizon, bar), bar)
        keep()
    except Exception as error:
        say(f"no daily results of the model: {one_line(error)}")


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
