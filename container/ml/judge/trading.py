"""What following positions earns: profit, Sharpe ratio, drawdown and turnover."""

from typing import Any

import numpy as np
import pandas as pd

from ml.judge.bars import DAY
from ml.judge.bootstrap import Bootstrap
from ml.judge.scores import Prediction


def positions(prediction: Prediction, threshold: float) -> np.ndarray:
    """+1 or -1 for each row; the position of the row before while the probability is within threshold of 0.5.

    0 until the first probability beyond the threshold.
    """
    decided = np.where(prediction.buy, 1.0, -1.0)
    if threshold:
        decided[np.abs(prediction.probability - 0.5) <= threshold] = np.nan
    return pd.Series(decided).ffill().fillna(0.0).to_numpy()


def profit(position: np.ndarray, mid: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """What each row earns, in price units for one unit: previous position x price change - |trade| x spread / 2."""
    held = np.concatenate([[0.0], position[:-1]])
    return held * np.diff(mid, prepend=mid[0]) - np.abs(position - held) * spread / 2


def trading_result(position: np.ndarray, profits: pd.Series, bootstrap: Bootstrap, bar: pd.Timedelta) -> dict[str, Any]:
    """What following one position came to.

    Args:
        position: -1, 0 or +1, (rows,).
        profits: of each row, as `profit` returns them, indexed by time.
        bootstrap: of the same rows.
        bar: length of a bar.

    Returns:
        pnl: profit in price units, an Estimate.
        sharpe: Sharpe ratio a year, from the profits of calendar days; nan where there are fewer than two.
        max_drawdown: deepest fall from a peak of the profit so far, in price units.
        turnover: units traded a day.
    """
    total = profits.cumsum().to_numpy()
    days = profits.groupby(pd.DatetimeIndex(profits.index).floor("D")).sum()
    span = (profits.index[-1] - profits.index[0]) / DAY + bar / DAY  # in days
    deviation = days.std() if len(days) > 1 else np.nan
    sharpe = days.mean() / deviation * np.sqrt(365.25 * len(days) / max(span, 1)) if deviation else np.nan
    return {
        "pnl": bootstrap.estimate(bootstrap.total(profits.to_numpy())),
        "sharpe": float(sharpe),
        "max_drawdown": float((np.maximum.accumulate(np.maximum(total, 0)) - total).max()),
        "turnover": float(np.abs(np.diff(position, prepend=0)).sum() / span),
    }
