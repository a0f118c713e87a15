"""The parts of a history, in the order of time: training, validation and test rows, with a purge at each cut.

Validation walks forward: stretches before the test part, each validated by a model that saw only what was before. With
one fold this is the plain split by time. Of several, the last one is that split and its model is the one that is kept;
the others say how much a result depends on the months it was measured on. The test part is the end of the history, and
only the model that is kept is measured there, after every choice.
"""

import dataclasses
import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ml.errors import UserError
from ml.learn.hosts import Hosts
from ml.learn.links import Message
from ml.learn.split import TimeSplit, longest_segment, rows_between, rows_from, slices_between, split_moments
from ml.log import say
from ml.segments import MAX_GAP, segment_bounds
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
        prices: the whole labelled history, of one instrument or of several.
        split: the moments that part it; None: all of it is trained on, nothing is validated.
        test_begin: the test part is from it on; None: there is none.
        refit: epochs of a training on every row; 0: it is none.
    """

    number: int
    count: int
    prices: pd.DataFrame
    split: TimeSplit | None
    test_begin: pd.Timestamp | None = None
    refit: int = 0

    @property
    def test_part(self) -> "Fold | None":
        """The same training rows with the test part as the rows that are held out; None: there is no test part."""
        if self.split is None or self.test_begin is None:
            return None
        return Fold(1, 1, self.prices, TimeSplit(self.split.training_end, self.test_begin))

    @property
    def history(self) -> pd.DataFrame:
        """The rows up to the last one that is validated."""
        return self.prices if self.split is None or self.split.end is None else self._rows(None, self.split.end)

    @property
    def train_rows(self) -> pd.DataFrame:
        """The first rows of each instrument, to train on."""
        return self.prices if self.split is None else self._rows(None, self.split.training_end)

    @property
    def validation_rows(self) -> pd.DataFrame | None:
        """The rows of each instrument that are validated; None: none are."""
        return self.held_out if self.split and self.split.holds_out else None

    @property
    def held_out(self) -> pd.DataFrame:
        """The rows of each instrument that the model is not trained on but measured on."""
        return self.prices.iloc[:0] if self.split is None else self._rows(self.split.held_out_begin, self.split.end)

    @functools.cached_property
    def parts(self) -> tuple[list[slice], list[slice]]:
        """The rows to train on and those held out: slices of `prices`, one an instrument each; none where none are."""
        if self.split is None:
            return slices_between(self.prices, None, None), []
        training = slices_between(self.prices, None, self.split.training_end)
        if not self.split.holds_out:
            return training, []
        return training, slices_between(self.prices, self.split.held_out_begin, self.split.end)

    @property
    def counts(self) -> tuple[int, int]:
        """How many rows are trained on, and how many held out."""
        train, held_out = (sum(rows.stop - rows.start for rows in part) for part in self.parts)
        return train, held_out

    def _rows(self, begin: pd.Timestamp | None, end: pd.Timestamp | None) -> pd.DataFrame:
        return rows_between(self.prices, begin, end)

    @property
    def subfolder(self) -> str:
        """Subfolder of an earlier fold's or a refit's checkpoints and logs; empty for the last fold."""
        if self.refit:
            return f"refit-{self.refit}"
        return "" if self.number == self.count else f"fold-{self.number}"

    def report(self, line: str, *, metrics: bool = False) -> None:
        """Prints a line of the training's, as `ml.log.say` does.

        The regexes of the metrics find `name=value`. They must find the numbers of the model that is kept and
        measured and no others', so an earlier fold's and a refit's lines have a space there.
        """
        if self.subfolder:
            which = "refit" if self.refit else f"fold {self.number} of {self.count}"
            say(f"{which}: {line.replace('=', ' ')}")
        else:
            say(line, metrics=metrics)


Predicted = tuple[np.ndarray, np.ndarray]  # rows, int, and probabilities, float32


@dataclasses.dataclass(frozen=True)
class Trained:
    """A fold's model, how its training went, and what predicts the validation rows.

    `predict` returns the rows of `Fold.validation_rows` at which a window ends, and their probabilities of buy. A row
    too near a segment's begin has no window, and one whose window is flat no prediction.
    """

    model: "keras.Model"
    result: "TrainingResult"
    predict: Callable[[], Predicted]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What all folds came to.

    Attributes:
        kept: the last fold's model; where a signal ended the job, that of the last fold with a whole epoch.
        results: of each fold that was finished.
        predicted: what each finished fold's model but the last's predicts.
        stopped: whether a signal ended it.
    """

    kept: Trained
    results: list["TrainingResult"]
    predicted: list[Predicted]
    stopped: bool


def split_by_time(
    history: pd.DataFrame, validation_fraction: float, lookback: int, horizon: int, max_gap: str = MAX_GAP
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Training rows, and the last rows to validate on; between them lookback + horizon rows that neither uses.

    Without that purge the last training labels would be made from validation prices.

    Returns:
        The two parts; the second is None where validation_fraction is 0.

    Raises:
        UserError: a part has no window.
    """
    settings = Settings(
        lookback=lookback,
        horizon=horizon,
        validation_fraction=validation_fraction,
        test_fraction=0.0,
        max_gap=max_gap,
    )
    (fold,) = folds_of(history, settings)
    return fold.train_rows, fold.validation_rows


def folds_of(history: pd.DataFrame, settings: Settings) -> list[Fold]:
    """The folds in the order of time: consecutive stretches, validation_fraction of the rows each.

    They end where the purge before the test part begins, or with the history where there is none. Each is trained on
    all that was before its stretch, less a purge of lookback + horizon rows in each instrument.

    Raises:
        UserError: a part has no window.
    """
    rows, lookback, count = len(history), settings.rows_lookback, settings.folds
    purge = lookback + settings.horizon
    if rows < lookback:
        raise UserError(
            f"{rows:,} rows of prices are fewer than the {lookback:,} of one window; use more data or a "
            "smaller lookback"
        )
    bounds = segment_bounds(history, settings.max_gap)
    tested, held_out = (
        _rows_of_part(rows, part, getattr(settings, f"{part}_fraction"), lookback) for part in ("test", "validation")
    )
    test = split_moments(history, tested, purge, settings.max_gap) if tested else None
    after = rows_from(history, test.training_end) if test else 0  # rows of the test part and of the purge before it
    if not held_out:
        split = test and TimeSplit(test.training_end, test.training_end, test.training_end)
        folds = [Fold(1, 1, history, split, test and test.held_out_begin)]
    else:
        folds = []
        for number in range(1, count + 1):
            later = after + (count - number) * held_out
            split = (
                split_moments(history, held_out, purge, settings.max_gap, later) if later + held_out < rows else None
            )
            folds.append(Fold(number, count, history, split, test and test.held_out_begin))
    for fold in reversed(folds):  # the last one first, whose model is kept
        _check_rows(fold, held_out, tested, settings)
        _check_segments(fold, bounds, settings)
    return folds


def refit_fold(fold: Fold, epochs: int) -> Fold:
    """The training of so many epochs on every row of a fold's history, after which nothing is left to measure on."""
    return Fold(1, 1, fold.prices, None, refit=epochs)


def _rows_of_part(rows: int, part: str, fraction: float, lookback: int) -> int:
    """How many rows a part is to have; 0 where it is switched off."""
    found = round(rows * fraction)
    if fraction and found < lookback:
        raise UserError(
            f"lookback {lookback:,} is larger than the {part} part: {found:,} of {rows:,} rows ({part}_fraction "
            f"{fraction}); use more data, a smaller lookback, or a larger {part}_fraction"
        )
    return found


def _check_rows(fold: Fold, held_out: int, tested: int, settings: Settings) -> None:
    rows, lookback = len(fold.prices), settings.rows_lookback
    training = fold.counts[0] if fold.split or not (held_out or tested) else 0
    if training >= lookback:
        return
    if fold.number == fold.count:
        parts = [
            f"{part} takes {taken:,}" for part, taken in (("validation", held_out), ("the test part", tested)) if taken
        ]
        off = " and ".join(
            f"{part}_fraction=0" for part, taken in (("validation", held_out), ("test", tested)) if taken
        )
        raise UserError(
            f"{training:,} rows are left to train on, fewer than the {lookback:,} of one window: "
            f"of {rows:,} rows {', '.join(parts)} and {'each' if len(parts) > 1 else 'the'} purge "
            f"{lookback + settings.horizon:,}; use more data, a smaller lookback, or {off}"
        )
    raise UserError(
        f"fold {fold.number} of {fold.count} has {training:,} rows to train on, fewer than the "
        f"{lookback:,} of one window; use more data, fewer folds, or a smaller "
        "validation_fraction"
    )


def _check_segments(fold: Fold, bounds: np.ndarray, settings: Settings) -> None:
    """Whether each part has a segment that is long enough for a window."""
    tested = fold.test_part
    parts = (*fold.parts, tested.parts[1] if tested else [])
    for part, does in zip(parts, ("trained", "validated", "tested"), strict=True):
        if part and (longest := longest_segment(bounds, part)) < settings.rows_lookback:
            which = f" of fold {fold.number}" if fold.subfolder else ""
            raise UserError(
                f"no segment of the rows that are {does} on{which} has the {settings.rows_lookback:,} of one window, "
                f"the longest has {longest:,}: gaps above max_gap ({settings.max_gap}) cut the history, and the last "
                f"{settings.horizon:,} rows before a cut have no label (horizon); use a longer max_gap, or a smaller "
                "lookback or horizon"
            )


def described(folds: Sequence[Fold]) -> str:
    """What is trained on, validated and tested, as a line for the log."""
    rows = rows_of_parts(folds)
    which = "the next" if rows["test_rows"] else "the last"
    validated = f"validating on {which} {rows['validation_rows']:,}" if rows["validation_rows"] else "validation is off"
    before = f", after {len(folds) - 1} such folds before them" if len(folds) > 1 else ""
    tested = f", testing on the last {rows['test_rows']:,}" if rows["test_rows"] else ""
    return f"training on {rows['train_rows']:,} rows, {validated}{before}{tested}"


def rows_of_parts(folds: Sequence[Fold]) -> dict[str, int]:
    """Rows that the model that is kept is trained, validated and tested on, as job.json names them."""
    training, validation = folds[-1].counts
    tested = folds[-1].test_part
    return {"train_rows": training, "validation_rows": validation, "test_rows": tested.counts[1] if tested else 0}


def train_shared_out(
    hosts: Hosts,
    folds: Sequence[Fold],
    train: Callable[[Fold], Trained],
    stop: Callable[[], bool] = lambda: False,
) -> Outcome | None:
    """Trains each fold's model on one of the hosts, and brings together on the first what came of them.

    Args:
        hosts: each calls this; the first one trains the last fold, whose model is kept.
        folds: in the order of time.
        train: trains a fold's model on this host alone.
        stop: whether any host is asked to end, as `Hosts.hearing_of_stops` says it.

    Returns:
        The outcome of all folds on the first host; None on the others.
    """
    mine = hosts.shared_out(folds)
    # The folds of another host are all earlier ones, so each has its predictions.
    outcome = train_in_turn(mine, train, stop) if mine else None
    found: dict[int, tuple[TrainingResult, Predicted | None]] = {}
    if outcome:
        predicted = [*outcome.predicted, *[None] * (len(outcome.results) - len(outcome.predicted))]
        numbers = [fold.number for fold in mine][: len(outcome.results)]
        found = dict(zip(numbers, zip(outcome.results, predicted, strict=True), strict=True))
    stopped = hosts.any("stop", stop() or (outcome is not None and outcome.stopped))
    told = hosts.gathered("folds", _told({} if hosts.first else found))
    if not hosts.first or outcome is None:
        return None
    for message in told:
        found |= _heard(message)
    in_order = [found[number] for number in sorted(found)]
    return dataclasses.replace(
        outcome,
        results=[result for result, _ in in_order],
        predicted=[predicted for _, predicted in in_order if predicted is not None],
        stopped=stopped,
    )


def _told(found: Mapping[int, "tuple[TrainingResult, Predicted | None]"]) -> Message:
    """What came of folds, as one host tells it another."""
    values, arrays = {}, {}
    for number, (result, predicted) in found.items():
        values[str(number)] = dataclasses.asdict(result)
        if predicted is not None:
            arrays |= {f"rows_{number}": predicted[0], f"probabilities_{number}": predicted[1]}
    return Message(values, arrays)


def _heard(message: Message) -> "dict[int, tuple[TrainingResult, Predicted | None]]":
    """What `_told` made a message of."""
    from ml.learn.trainer import TrainingResult

    return {
        int(number): (
            TrainingResult(**result),
            (message.arrays[f"rows_{number}"], message.arrays[f"probabilities_{number}"]),
        )
        for number, result in message.values.items()
    }


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
    results, predicted, stopped = [], [], False
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
            predicted.append(trained.predict())
        if stop():
            break
    if kept is None:
        raise ValueError("there is no fold to train")
    return Outcome(kept, results, predicted, stopped=stop() or stopped)
