"""The simple rules that a model has to beat.

They are fitted on the training rows alone and predict every held-out row. Each looks at prices up to its row and at
labels that were known by then.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.special

from ml.judge.bars import counted
from ml.judge.instruments import Instrument, rows_with_window
from ml.judge.scores import Prediction
from ml.settings import Settings

# Lengths that a rule chooses from, in bars as lookback and horizon are: a rule then looks as far back as a model could.
_RULE_BARS = (30, 60, 120, 240, 480, 720, 1440)
_REGRESSORS = 60  # prices of a window that the logistic regression sees, evenly spaced
_FITTED_WINDOWS = 50_000
_RIDGE = 1e-3
_MOST_STEPS, _SMALLEST_STEP = 100, 1e-3
_SMALLEST_GAIN = 1e-9  # of the mean loss
_TINY = 1e-9  # added to the curvature, which is 0 where labels are all of one kind


class _Rows(NamedTuple):
    """An instrument's rows as the rules see them: prices and labels of all, and which are fitted on and predicted.

    Attributes:
        prices: mid, (rows,).
        buys: labels, bool, (rows,).
        low: lowest of the last `lookback` prices, (rows,).
        high: highest of them, (rows,).
        fitted: training rows, but those whose window is flat, bool, (rows,).
        fitted_windows: those of them at which a window of one segment ends, by number.
        predicted: rows to predict, by number.
    """

    prices: np.ndarray
    buys: np.ndarray
    low: np.ndarray
    high: np.ndarray
    fitted: np.ndarray
    fitted_windows: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, instrument: Instrument, settings: Settings) -> "_Rows":
        history = instrument.history
        prices = history["mid"].to_numpy(np.float64)
        low, high = extremes(prices, settings.lookback)
        whole, moves = rows_with_window(history, low, high, settings.lookback, settings.max_gap)
        training = np.arange(len(prices)) < instrument.training
        return cls(
            prices,
            history["position"].to_numpy() > 0,
            low,
            high,
            training & (moves | ~whole),
            np.flatnonzero(training & moves),
            instrument.predicted,
        )


_Saying = Callable[[_Rows], np.ndarray]  # what a rule says about every row of an instrument, bool


def baselines(instruments: Sequence[Instrument], settings: Settings, bar: pd.Timedelta) -> list[Prediction]:
    """What simple rules, fitted on the training rows of all instruments, say about the rows that a model predicts.

    Args:
        instruments: their histories, the rows to fit on and those to predict.
        settings: lookback, horizon, max_gap.
        bar: length of a bar, for the rules' names.

    Returns:
        Of each rule its prediction of `Instrument.predicted`, instrument after instrument.
    """
    rows = [_Rows.of(instrument, settings) for instrument in instruments]
    fitted = sum(int(np.count_nonzero(each.fitted)) for each in rows)
    bought = sum(int(np.count_nonzero(each.buys & each.fitted)) for each in rows)

    def best_of(name: str, says_of: Callable[[int], _Saying]) -> Prediction:
        right = {bars: _right(says_of(bars), rows) for bars in _RULE_BARS}
        bars = max(right, key=lambda bars: right[bars])
        return _rule(f"{name} of {counted(bars, bar)}", says_of(bars), rows)

    def range_rule(bars: int) -> _Saying:
        return lambda each: each.prices > sum(extremes(each.prices, bars)) / 2

    def momentum(bars: int) -> _Saying:
        return lambda each: each.prices > _earlier(each.prices, bars)

    def persisting(each: _Rows) -> np.ndarray:
        # A position needs the prices of the next `horizon` rows, so the last known one is that old.
        unknown = np.zeros(min(settings.horizon, len(each.buys)), bool)
        return np.concatenate([unknown, each.buys[: -settings.horizon]])

    return [
        _rule("majority", lambda each: np.full(len(each.buys), 2 * bought >= fitted), rows),
        _rule("last known position", persisting, rows),
        best_of("range rule", range_rule),
        best_of("momentum", momentum),
        _regression(rows, settings.lookback),
    ]


def fitted_regression(instruments: Sequence[Instrument], settings: Settings) -> Prediction | None:
    """What the logistic regression among `baselines` says, alone; None where it has no window to learn or predict."""
    rows = [_Rows.of(instrument, settings) for instrument in instruments]
    if not any(len(each.fitted_windows) for each in rows) or not any(len(each.predicted) for each in rows):
        return None
    return _regression(rows, settings.lookback)


def _right(says_buy: _Saying, rows: Sequence[_Rows]) -> int:
    """How many fitted rows a rule is right about."""
    return sum(int(np.count_nonzero((says_buy(each) == each.buys) & each.fitted)) for each in rows)


def _rule(name: str, says_buy: _Saying, rows: Sequence[_Rows]) -> Prediction:
    """A rule's prediction.

    Its probability is the share of buys among the training rows where it said the same, with one buy and one sell
    added, so that no probability is 0 or 1.
    """
    bought, said, answers = np.zeros(2), np.zeros(2), []
    for each in rows:
        says = says_buy(each)
        for answer in (0, 1):
            same = (says == answer) & each.fitted
            said[answer] += np.count_nonzero(same)
            bought[answer] += np.count_nonzero(same & each.buys)
        answers.append(says[each.predicted])
    no, yes = (bought + 1) / (said + 2)
    buy = np.concatenate(answers)
    return Prediction(name, np.where(buy, yes, no), buy)


def extremes(prices: np.ndarray, bars: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest of so many prices up to each, that one included; the first rows have fewer."""
    rolling = pd.Series(prices).rolling(bars, min_periods=1)
    return rolling.min().to_numpy(), rolling.max().to_numpy()


def _earlier(prices: np.ndarray, bars: int) -> np.ndarray:
    """The price so many rows before each, the first one where there is none."""
    return prices[np.maximum(np.arange(len(prices)) - bars, 0)]


def _regression(rows: Sequence[_Rows], lookback: int) -> Prediction:
    """Logistic regression with a ridge on the normalised window, thinned to evenly spaced prices."""
    back = np.unique(np.linspace(0, lookback - 1, min(lookback, _REGRESSORS)).round().astype(np.int64))

    def regressors(each: _Rows, at: np.ndarray) -> np.ndarray:
        low, high = each.low[at, None], each.high[at, None]
        scaled = (each.prices[at[:, None] - back] - low) / np.where(high > low, high - low, 1)
        return np.column_stack([scaled - 0.5, np.ones(len(at))]).astype(np.float32)

    ends = np.cumsum([len(each.fitted_windows) for each in rows])
    first, last = lookback - 1, lookback - 2 + ends[-1]  # evenly drawn from all windows, one instrument after the other
    drawn = np.linspace(first, last, min(ends[-1], _FITTED_WINDOWS)).astype(np.int64) - first
    fitted = [
        (each, each.fitted_windows[drawn[(drawn >= end - len(each.fitted_windows)) & (drawn < end)] - end])
        for each, end in zip(rows, ends, strict=True)
    ]
    weights = _logistic_weights(
        np.concatenate([regressors(each, at) for each, at in fitted]),
        np.concatenate([np.where(each.buys[at], 1.0, -1.0) for each, at in fitted]),
    )
    parts = [  # the regressors of all rows would fill the memory
        (each, at)
        for each in rows
        if len(each.predicted)
        for at in np.array_split(each.predicted, -(-len(each.predicted) // _FITTED_WINDOWS))
    ]
    probability = np.concatenate([scipy.special.expit(regressors(each, at) @ weights) for each, at in parts])
    return Prediction("logistic regression", probability, probability > 0.5)


def _logistic_weights(x: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """The weights (columns,) of a logistic regression of sign (+1, -1) on x (rows, columns), the last one's free.

    Newton's method, since there are few columns: it takes about five steps where L-BFGS takes fifty.
    """
    ridge = np.full(x.shape[1], _RIDGE)
    ridge[-1] = 0  # the intercept

    def margins(weights):
        margin = sign * (x @ weights.astype(np.float32))
        return margin, np.logaddexp(0, -margin).mean() + ridge @ weights**2 / 2

    weights = np.zeros(x.shape[1])
    margin, loss = margins(weights)
    for _ in range(_MOST_STEPS):
        wrong = scipy.special.expit(-margin)
        slope = ridge * weights - (sign * wrong).astype(np.float32) @ x / len(x)
        curvature = (x.T * (wrong * (1 - wrong)).astype(np.float32)) @ x / len(x) + np.diag(ridge + _TINY)
        step = np.linalg.solve(curvature, slope)
        if slope @ step < _SMALLEST_GAIN:
            break
        size = 1.0
        while (found := margins(weights - size * step))[1] > loss and size > _SMALLEST_STEP:
            size /= 2
        weights, (margin, loss) = weights - size * step, found
    return weights
