"""Walk-forward validation: stretches at the end of a history, each validated by a model that saw only what was before.

With one fold this is the plain split by time. Of several, the last one is that split and its model is the one
that is kept; the others say how much a result depends on the months it was measured on.
"""

import dataclasses
import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ml.errors import UserError
from ml.log import say
from ml.settings import Settings

if TYPE_CHECKING:  # which import TensorFlow
    import keras

    from ml.learn.trainer import TrainingResult


@dataclasses.dataclass(frozen=True)
class Fold:
    """One model's part of a history.

    Attributes:
        number: from 1, in the order of time.
        count: of all folds.
        history: the rows up to the last one that is validated.
        train_rows: the first of them.
        validation_rows: the last of them; None: nothing is validated.
    """

    number: int
    count: int
    history: pd.DataFrame
    train_rows: pd.DataFrame
    validation_rows: pd.DataFrame | None

    @property
    def subfolder(self) -> str:
        """Subfolder of an earlier fold's checkpoints and logs; empty for the last one."""
        return "" if self.number == self.count else f"fold-{self.number}"

    def report(self, line: str, *, metrics: bool = False) -> None:
        """Prints a line of the training's, as `ml.log.say` does.

        The regexes of the metrics find `name=value`. They must find the numbers of the model that is kept and
        no others', so an earlier fold's lines have a space there.
        """
        if self.subfolder:
            say(f"fold {self.number} of {self.count}: {line.replace('=', ' ')}")
        else:
            say(line, metrics=metrics)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A fold's model, how its training went, and its probabilities of buy for the validation windows."""

    model: "keras.Model"
    result: "TrainingResult"
    predict: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What all folds came to.

    Attributes:
        kept: the last fold's model; where a signal ended the job, that of the last fold with a whole epoch.
        results: of each fold that was finished.
        probabilities: of buy, of the validation windows of each finished fold but the last.
        stopped: whether a signal ended it.
    """

    kept: Trained
    results: list["TrainingResult"]
    probabilities: list[np.ndarray]
    stopped: bool


def split_by_time(
    history: pd.DataFrame, validation_fraction: float, lookback: int, horizon: int
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Training rows, and the last rows to validate on; between them lookback + horizon rows that neither uses.

    Without that purge the last training labels would be made from validation prices.

    Returns:
        The two parts; the second is None where validation_fraction is 0.

    Raises:
        UserError: a part has no window.
    """
    rows = len(history)
    if rows < lookback:
        raise UserError(
            f"{rows:,} rows of prices are fewer than the {lookback:,} of one window; use more data or a "
            "smaller lookback"
        )
    if not validation_fraction:
        return history, None
    held_out = round(rows * validation_fraction)
    if held_out < lookback:
        raise UserError(
            f"lookback {lookback:,} is larger than the validation part: {held_out:,} of {rows:,} rows "
            f"(validation_fraction {validation_fraction}); use more data, a smaller lookback, or a "
            "larger validation_fraction"
        )
    training = rows - held_out - lookback - horizon
    if training < lookback:
        raise UserError(
            f"{max(training, 0):,} rows are left to train on, fewer than the {lookback:,} of one window: "
            f"of {rows:,} rows validation takes {held_out:,} and the purge {lookback + horizon:,}; use "
            "more data, a smaller lookback, or validation_fraction=0"
        )
    return history.iloc[:training], history.iloc[rows - held_out :]


def folds_of(history: pd.DataFrame, settings: Settings) -> list[Fold]:
    """The folds in the order of time: consecutive stretches at the end, validation_fraction of the rows each.

    Each is trained on all that was before its stretch, less a purge of lookback + horizon rows.

    Raises:
        UserError: a part has no window.
    """
    lookback, count = settings.lookback, settings.folds
    train_rows, validation_rows = split_by_time(history, settings.validation_fraction, lookback, settings.horizon)
    if validation_rows is None:
        return [Fold(1, 1, history, train_rows, None)]
    folds = []
    for number in range(1, count):
        later = (count - number) * len(validation_rows)
        known, training = history.iloc[: len(history) - later], len(train_rows) - later
        if training < lookback:
            raise UserError(
                f"fold {number} of {count} has {max(training, 0):,} rows to train on, fewer than the "
                f"{lookback:,} of one window; use more data, fewer folds, or a smaller "
                "validation_fraction"
            )
        folds.append(Fold(number, count, known, known.iloc[:training], known.iloc[len(known) - len(validation_rows) :]))
    return [*folds, Fold(count, count, history, train_rows, validation_rows)]


def described(folds: Sequence[Fold]) -> str:
    """What is trained on and validated, as a line for the log."""
    last = folds[-1]
    validated = (
        "validation is off" if last.validation_rows is None else f"validating on the last {len(last.validation_rows):,}"
    )
    before = f", after {len(folds) - 1} such folds before them" if len(folds) > 1 else ""
    return f"training on {len(last.train_rows):,} rows, {validated}{before}"


def rows_of_parts(folds: Sequence[Fold]) -> dict[str, int]:
    """Rows that the model that is kept is trained and validated on, as job.json names them."""
    last = folds[-1]
    validation = 0 if last.validation_rows is None else len(last.validation_rows)
    return {"train_rows": len(last.train_rows), "validation_rows": validation}


def train_in_turn(
    folds: Sequence[Fold], train: Callable[[Fold], Trained], stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Trains the folds' models one after the other, keeping in memory the one that counts.

    Args:
        folds: in the order of time.
        train: trains a fold's model.
        stop: whether the process is asked to end.
    """
    kept: Trained | None = None
    results, probabilities, stopped = [], [], False
    for fold in folds:
        gc.collect()  # a trainer and its graphs hold each other, and a history each
        trained = train(fold)
        if kept is None or trained.result.best_epoch:
            kept = trained
        stopped = trained.result.stopped
        if stopped:
            break
        results.append(trained.result)
        if fold.subfolder:
            probabilities.append(trained.predict())
        if stop():
            break
    if kept is None:
        raise ValueError("there is no fold to train")
    return Outcome(kept, results, probabilities, stopped=stop() or stopped)
