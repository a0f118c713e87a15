"""Random histories of several instruments with gaps, and the row-by-row definition of a segment."""

import numpy as np
import pandas as pd
from hypothesis import strategies as st

MINUTE = pd.Timedelta("1min")


@st.composite
def universes(draw):
    """Frames of one to four instruments with gaps of 1 to 90 minutes, some prices standing still."""
    parts = []
    for symbol in "ABCD"[: draw(st.integers(1, 4))]:
        rows = draw(st.integers(1, 60))
        rng = np.random.default_rng(draw(st.integers(0, 10**6)))
        steps = np.where(rng.random(rows) < 0.1, rng.integers(2, 90, rows), 1)
        moves = np.where(rng.random(rows) < draw(st.sampled_from([0.0, 0.7])), 0, rng.integers(-3, 4, rows))
        parts.append(
            pd.DataFrame(
                {"mid": 100.0 + moves.cumsum(), "symbol": symbol},
                pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(steps.cumsum(), "min"),
            )
        )
    frame = pd.concat(parts)
    return frame if draw(st.booleans()) or len(parts) > 1 else frame.drop(columns="symbol")


def together(frame, first, last, gap):
    """Whether rows first to last are of one segment, by looking at each step."""
    symbols = frame["symbol"].tolist() if "symbol" in frame else ["A"] * len(frame)
    return all(
        symbols[row] == symbols[row + 1] and frame.index[row + 1] - frame.index[row] <= gap * MINUTE
        for row in range(first, last)
    )
