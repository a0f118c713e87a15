"""The simple rules that a model has to beat.

They are fitted on the training rows alone and predict every held-out row. Each looks at prices up to its row and at
labels that were known by then.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special

from ml.judge.bars import counted
from ml.judge.scores import Prediction
from ml.settings import Settings

# Lengths that a rule chooses from, in bars as lookback and horizon are: a rule then looks as far back as a model could.
_RULE_BARS = (30, 60, 120, 240, 480, 720, 1440)
_REGRESSORS = 60  # prices of a window that the logistic regression sees, evenly spaced
_FITTED_WINDOWS = 50_000
_RIDGE = 1e-3


def baselines(
    history: pd.DataFrame, training: int, predicted: int, settings: Settings, bar: pd.Timedelta
) -> list[Prediction]:
    """What simple rules, fitted on the training rows, say about the last rows.

    Args:
        history: mid and position; it ends with the rows to predict.
        training: rows at its beginning to fit on.
        predicted: rows at its end to predict.
        settings: lookback, horizon.
        bar: length of a bar, for the rules' names.
    """
    prices, buys = history["mid"].to_numpy(), history["position"].to_numpy() > 0
    fitted = buys[:training]

    def best_of(name: str, says_of: Callable[[int], np.ndarray]) -> Prediction:
        right = {bars: float(np.mean(says_of(bars)[:training] == fitted)) for bars in _RULE_BARS}
        bars = max(right, key=lambda bars: right[bars])
        return _rule(f"{name} of {counted(bars, bar)}", says_of(bars), fitted, predicted)

    # A position needs the prices of the next `horizon` rows, so the last known one is that old.
    persisting = np.concatenate([np.zeros(min(settings.horizon, len(buys)), bool), buys[: -settings.horizon]])
    return [
        _rule("majority", np.full(len(buys), 2 * fitted.sum() >= training), fitted, predicted),
        _rule("last known position", persisting, fitted, predicted),
        best_of("range rule", lambda bars: prices > sum(extremes(prices, bars)) / 2),
        best_of("momentum", lambda bars: prices > _earlier(prices, bars)),
        _regression(prices, buys, training, predicted, settings.lookback),
    ]


def _rule(name: str, says_buy: np.ndarray, fitted: np.ndarray, predicted: int) -> Prediction:
    """A rule's prediction of the last rows.

    Its probability is the share of buys among the training rows where it said the same, with one buy and one sell
    added, so that no probability is 0 or 1.

    Args:
        name: for the reader.
        says_buy: what the rule says about every row, bool.
        fitted: the labels of the training rows, bool.
        predicted: rows at the end to predict.
    """
    said = says_buy[: len(fitted)]
    no, yes = ((fitted[said == answer].sum() + 1) / ((said == answer).sum() + 2) for answer in (False, True))
    last = says_buy[len(says_buy) - predicted :]
    return Prediction(name, np.where(last, yes, no), last)


def extremes(prices: np.ndarray, bars: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest of so many prices up to each, that one included; the first rows have fewer."""
    rolling = pd.Series(prices).rolling(bars, min_periods=1)
    return rolling.min().to_numpy(), rolling.max().to_numpy()


def _earlier(prices: np.ndarray, bars: int) -> np.ndarray:
    """The price so many rows before each, the first one where there is none."""
    return prices[np.maximum(np.arange(len(prices)) - bars, 0)]


def _regression(prices: np.ndarray, buys: np.ndarray, training: int, predicted: int, lookback: int) -> Prediction:
    """Logistic regression with a ridge on the normalised window, thinned to evenly spaced prices."""
    low, high = extremes(prices, lookback)
    height = np.where(high > low, high - low, 1)
    back = np.unique(np.linspace(0, lookback - 1, min(lookback, _REGRESSORS)).round().astype(np.int64))

    def regressors(rows):
        scaled = (prices[rows[:, None] - back] - low[rows, None]) / height[rows, None]
        return np.column_stack([scaled - 0.5, np.ones(len(rows))]).astype(np.float32)

    rows = np.linspace(lookback - 1, training - 1, min(training - lookback + 1, _FITTED_WINDOWS)).astype(np.int64)
    weights = _logistic_weights(regressors(rows), np.where(buys[rows], 1.0, -1.0))
    last = np.arange(len(prices) - predicted, len(prices))
    parts = np.array_split(last, -(-len(last) // _FITTED_WINDOWS))  # the regressors of all rows would fill the memory
    probability = np.concatenate([scipy.special.expit(regressors(part) @ weights) for part in parts])
    return Prediction("logistic regression", probability, probability > 0.5)


def _logistic_weights(x: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """The weights (columns,) of a logistic regression of sign (+1, -1) on x (rows, columns), the last one's free."""
    ridge = np.full(x.shape[1], _RIDGE)
    ridge[-1] = 0  # the intercept

    def loss(weights):
        margin = sign * (x @ weights.astype(np.float32))
        slope = -sign * scipy.special.expit(-margin) / len(x)
        return np.logaddexp(0, -margin).mean() + ridge @ weights**2 / 2, (
            slope.astype(np.float32) @ x
        ) + ridge * weights

    return scipy.optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
