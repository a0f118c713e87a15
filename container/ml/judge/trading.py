"""What following positions earns: profit, Sharpe ratio, drawdown and turnover."""

from typing import Any

import numpy as np
import pandas as pd

from ml.judge.bars import DAY
from ml.judge.bootstrap import Bootstrap
from ml.judge.scores import Prediction

PRICE_UNITS, BASIS_POINTS = "price units", "basis points of the price"


def positions(prediction: Prediction, threshold: float, predicted: np.ndarray | None = None) -> np.ndarray:
    """+1 or -1 for each row; the position of the row before where the probability is within threshold of 0.5.

    0 until the first probability beyond the threshold.

    Args:
        prediction: of the rows that have one.
        threshold: as in the settings.
        predicted: which rows have one, bool, (rows,); at the others the position is kept. None: all have.
    """
    decided = np.where(prediction.buy, 1.0, -1.0)
    if threshold:
        decided[np.abs(prediction.probability - 0.5) <= threshold] = np.nan
    if predicted is not None:
        of_rows = np.full(len(predicted), np.nan)
        of_rows[predicted] = decided
        decided = of_rows
    return pd.Series(decided).ffill().fillna(0.0).to_numpy()


def profit(position: np.ndarray, mid: np.ndarray, spread: np.ndarray, fee: float = 0.0) -> np.ndarray:
    """What each row earns, in price units for one unit.

    It is the previous position x the price's change, less |trade| x (spread / 2 + fee x price).
    """
    held = later(position)
    return held * np.diff(mid, prepend=mid[0]) - np.abs(position - held) * (spread / 2 + fee * mid)


def later(position: np.ndarray) -> np.ndarray:
    """Positions taken one row later, as where an order takes a bar to be filled; 0 at first."""
    return np.concatenate([[0.0], position[:-1]])


def in_basis_points(profits: np.ndarray, mid: np.ndarray) -> np.ndarray:
    """Profits of rows in basis points of the price before each, so that those of instruments add up."""
    return 1e4 * profits / np.concatenate([mid[:1], mid[:-1]])


def trading_result(
    profits: pd.Series, delayed: pd.Series, traded: float, bootstrap: Bootstrap, bar: pd.Timedelta
) -> dict[str, Any]:
    """What following positions came to.

    Args:
        profits: of each moment, in any unit, indexed by time.
        delayed: the same where every trade is made one bar later.
        traded: units traded in all.
        bootstrap: of the same moments.
        bar: length of a bar.

    Returns:
        pnl: profit, an Estimate.
        pnl_later: the same where every trade is made one bar later.
        sharpe: Sharpe ratio a year, from the profits of calendar days; nan where there are too few blocks for an
            interval.
        max_drawdown: deepest fall from a peak of the profit so far.
        turnover: units traded a day.
    """
    total = profits.cumsum().to_numpy()
    days = profits.groupby(pd.DatetimeIndex(profits.index).floor("D")).sum()
    span = (profits.index[-1] - profits.index[0]) / DAY + bar / DAY  # in days
    deviation = days.std() if bootstrap.has_intervals and len(days) > 1 else np.nan
    sharpe = days.mean() / deviation * np.sqrt(365.25 * len(days) / max(span, 1)) if deviation else np.nan
    return {
        "pnl": bootstrap.estimate(bootstrap.total(profits.to_numpy())),
        "pnl_later": bootstrap.estimate(bootstrap.total(delayed.to_numpy())),
        "sharpe": float(sharpe),
        "max_drawdown": float((np.maximum.accumulate(np.maximum(total, 0)) - total).max()),
        "turnover": float(traded / span),
    }
