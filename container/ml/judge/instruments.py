"""What is judged: each instrument's history, and what a model says about its last rows."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.optimal_position import decided_bars
from ml.segments import segment_bounds, valid_starts


class Instrument(NamedTuple):
    """One instrument's history, which ends with the held-out rows.

    Attributes:
        history: mid and position, and either bid and ask or spread where they are known, indexed by time; and
            decided, or what `ml.optimal_position.decided_bars` finds it by, where the positions are the job's own.
        training: rows at its beginning that the model was trained on; rules are fitted on the same.
        probability: of buy, of the last rows, (rows,); nan where there is no prediction.
        name: empty where there is one instrument.
    """

    history: pd.DataFrame
    training: int
    probability: np.ndarray
    name: str = ""

    @property
    def first(self) -> int:
        """The first row with a prediction; the number of rows where there is none."""
        known = np.isfinite(self.probability)
        return len(self.history) - (len(known) - int(np.argmax(known)) if known.any() else 0)

    @property
    def judged(self) -> pd.DataFrame:
        """The rows from the first prediction on."""
        return self.history.iloc[self.first :]

    @property
    def predicted(self) -> np.ndarray:
        """The rows with a prediction, by number, (predictions,)."""
        return len(self.history) - len(self.probability) + np.flatnonzero(np.isfinite(self.probability))

    @property
    def decided(self) -> np.ndarray | None:
        """Whether each row's position is certain at that very row, bool, (rows,); None: not known."""
        history = self.history
        return history["decided"].to_numpy() if "decided" in history else decided_bars(history)


def spreads_of(history: pd.DataFrame, spread: float) -> np.ndarray:
    """Ask minus bid of each row, float64, (rows,); `spread` where they are not known."""
    if "spread" in history:
        return history["spread"].to_numpy(np.float64)
    return (history["ask"] - history["bid"]).to_numpy() if "bid" in history else np.full(len(history), spread)


def rows_with_window(history: pd.DataFrame, low: np.ndarray, high: np.ndarray, lookback: int, max_gap: str):
    """Whether a window ends at each row, and whether it moves, bool, (rows,) each.

    Args:
        history: of one instrument.
        low: lowest of the last `lookback` prices at each row.
        high: highest of them.
        lookback: prices of a window.
        max_gap: longest time between two bars of a segment.
    """
    valid = valid_starts(segment_bounds(history, max_gap), lookback)
    whole = np.concatenate([np.zeros(len(history) - len(valid), bool), valid])
    return whole, whole & (high > low)
