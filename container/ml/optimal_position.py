"""The position one would hold knowing the next hours: what the model learns to guess."""

from datetime import date, datetime

import numpy as np
import pandas as pd

from ml.errors import UserError
from ml.segments import segment_bounds, valid_starts

# A trade decided on a minute's close fills no sooner than this many minutes later.
FIRST_MINUTE = 3


class OptimalPositionGenerator:
    """The optimal positions of a time series.

    Args:
        ts: an object with `curve(start, end)` that returns a frame with bid, ask and mid, or mid alone.
        start_date: first day or time.
        end_date: last day or time, included.
        horizon: minutes that a position looks ahead.
        spread: ask minus bid, in price units, where the series has only mid.
    """

    def __init__(
        self, ts, start_date: date | datetime, end_date: date | datetime, horizon: int = 300, spread: float = 0.0
    ):
        self._ts, self._start, self._end = ts, start_date, end_date
        self._horizon, self._spread = horizon, spread

    def generate(self) -> pd.DataFrame:
        """The series between the dates with `future_min`, `future_max` and `position`."""
        return optimal_positions(self._ts.curve(self._start, self._end), self._horizon, self._spread)


def optimal_positions(
    frame: pd.DataFrame, horizon: int = 300, spread: float = 0.0, max_gap: str = "off"
) -> pd.DataFrame:
    """A price history with its optimal positions.

    Short (-1) where the bid is above every mid of rows t+3 to t+horizon, long (+1) where the ask is below
    every one of them, else the position of the row before; 0 until the first. Each segment is labelled on its own.

    Args:
        frame: bid, ask and mid, or mid alone, float64, (rows,); a row a bar. With a column `symbol` it holds several
            instruments, one after the other.
        horizon: rows that a position looks ahead, at least 3.
        spread: ask minus bid, in price units, where frame has only mid.
        max_gap: longest time between two bars of a segment, such as `30min` or `4d`; `off`: any.

    Returns:
        bid, ask, mid, future_min, future_max, position, and symbol where there is one. The last `horizon` rows of
        each segment have no full future and are left out.

    Raises:
        UserError: no segment has more rows than the horizon.
    """
    if len(frame) <= horizon:
        raise UserError(
            f"{len(frame):,} rows are too few to label with optimal positions that look {horizon:,} "
            f"rows ahead; use more than {horizon:,} rows or a smaller horizon"
        )
    mid = frame["mid"]
    bid, ask = (frame["bid"], frame["ask"]) if "bid" in frame else (mid - spread / 2, mid + spread / 2)
    future = mid.rolling(horizon - FIRST_MINUTE + 1)
    columns = {
        "bid": bid,
        "ask": ask,
        "mid": mid,
        # The extremes that end at row t+horizon, moved to row t.
        "future_min": future.min().shift(-horizon),
        "future_max": future.max().shift(-horizon),
    }
    if "symbol" in frame:
        columns["symbol"] = frame["symbol"]
    bounds = segment_bounds(frame, max_gap)
    kept = valid_starts(bounds, horizon + 1)  # rows whose future is of their own segment
    if not kept.any():
        raise UserError(
            f"no segment of the {len(frame):,} rows is longer than the {horizon:,} rows that a label looks ahead; "
            f"use a longer max_gap than {max_gap}, or a smaller horizon"
        )
    segments = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))[: len(kept)][kept]
    result = pd.DataFrame(columns).iloc[: len(kept)][kept]
    decided = np.select(
        [result["bid"] > result["future_max"], result["ask"] < result["future_min"]], [-1.0, 1.0], np.nan
    )
    position = pd.Series(decided, result.index).groupby(segments).ffill().fillna(0.0)
    return result.assign(position=position)


def labelled(history: pd.DataFrame, horizon: int, spread: float, max_gap: str = "off") -> pd.DataFrame:
    """A history with positions: its own where it has them, else the optimal ones (each segment's last rows drop)."""
    return history if "position" in history else optimal_positions(history, horizon, spread, max_gap)
