"""Segments: runs of bars of one instrument without a gap longer than `max_gap`.

No window, no label's look ahead and no purge crosses a segment's end.
"""

import itertools
from datetime import timedelta

import numpy as np
import pandas as pd

from ml.hyperparameters import parse_gap
from ml.settings import MAX_GAP

_MICROSECOND = timedelta(microseconds=1)
_ENDLESS = 2**63 - 1  # nanoseconds


def segment_bounds(frame: pd.DataFrame, max_gap: str = MAX_GAP) -> np.ndarray:
    """The first row of each segment of a frame, and the number of rows: int64, (segments + 1,).

    Args:
        frame: rows in the order of time, or instrument by instrument where it has a column `symbol`. Without times
            as index, rows of one symbol are one segment.
        max_gap: as `ml.hyperparameters.parse_gap` reads it.
    """
    rows = len(frame)
    begins = np.zeros(rows, bool)
    begins[:1] = True
    if "symbol" in frame:
        codes = frame["symbol"].astype("category").cat.codes.to_numpy()
        begins[1:] |= codes[1:] != codes[:-1]
    longest = parse_gap(max_gap)
    if isinstance(frame.index, pd.DatetimeIndex) and longest is not None:
        times = frame.index.as_unit("ns").asi8
        begins[1:] |= np.diff(times) > min(longest // _MICROSECOND * 1000, _ENDLESS)
    return np.append(np.flatnonzero(begins), rows)


def valid_starts(bounds: np.ndarray, lookback: int) -> np.ndarray:
    """Whether a window may begin at each row, which it may where all its rows are of one segment.

    Args:
        bounds: from `segment_bounds`.
        lookback: rows of a window.

    Returns:
        bool, (rows - lookback + 1,).
    """
    valid = np.zeros(max(int(bounds[-1]) - lookback + 1, 0), bool)
    for first, end in itertools.pairwise(bounds):
        valid[first : max(end - lookback + 1, first)] = True
    return valid


def instrument_slices(history: pd.DataFrame) -> dict[str, slice]:
    """The rows of each instrument by its name; of one without a column `symbol` all rows, by an empty name."""
    if "symbol" not in history:
        return {"": slice(0, len(history))}
    bounds = segment_bounds(history, "off").tolist()
    symbols = history["symbol"].iloc[bounds[:-1]]
    return {str(symbol): slice(first, last) for symbol, first, last in zip(symbols, bounds, bounds[1:], strict=False)}
