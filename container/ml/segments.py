"""Segments: runs of bars of one instrument without a gap longer than `max_gap`.

No window, no label's look ahead and no purge crosses a segment's end.
"""

import itertools
import re

import numpy as np
import pandas as pd

MAX_GAP = "4d"  # a weekend or a night is bridged, a hole of weeks is not
_GAP = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)")


def parse_gap(text: str) -> pd.Timedelta | None:
    """The longest time between two bars of one segment.

    Args:
        text: a number and a unit (`90s`, `30min`, `12h`, `4d`), or `off`: None, every gap is bridged.

    Raises:
        ValueError: it is neither.
    """
    if text.strip().lower() == "off":
        return None
    found = _GAP.fullmatch(text.strip().lower())
    if not found or not float(found[1]):
        raise ValueError("a time above 0 such as 90s, 30min, 12h or 4d, or off")
    return pd.Timedelta(float(found[1]), unit={"d": "D"}.get(found[2], found[2]))


def segment_bounds(frame: pd.DataFrame, max_gap: str = MAX_GAP) -> np.ndarray:
    """The first row of each segment of a frame, and the number of rows: int64, (segments + 1,).

    Args:
        frame: rows in the order of time, or instrument by instrument where it has a column `symbol`. Without times
            as index, rows of one symbol are one segment.
        max_gap: as `parse_gap` reads it.
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
        begins[1:] |= np.diff(times) > longest.value
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
