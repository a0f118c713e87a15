"""Training, validation and test rows: splits in time, the same for all instruments, with a purge at each."""

import dataclasses
from typing import cast

import numpy as np
import pandas as pd

from ml.segments import instrument_slices, segment_bounds


@dataclasses.dataclass(frozen=True)
class TimeSplit:
    """The moments that part a history; the same for every instrument.

    Attributes:
        training_end: training rows are those before it.
        held_out_begin: held-out rows are those from it on.
        end: held-out rows are those before it; None: to the last row. The same as held_out_begin: there are none.
    """

    training_end: pd.Timestamp
    held_out_begin: pd.Timestamp
    end: pd.Timestamp | None = None

    @property
    def holds_out(self) -> bool:
        """Whether there are held-out rows."""
        return self.held_out_begin != self.end


def split_moments(history: pd.DataFrame, held_out: int, purge: int, max_gap: str, later: int = 0) -> TimeSplit:
    """Where to split a history so that a number of bars, the last ones but `later`, are held out.

    Labels look ahead, so the bars just before the held-out ones are kept from training: in each instrument `purge`
    of them, or as many as its segment has there, since no label looks beyond its segment. The instrument that needs
    the earliest end decides for all.

    Args:
        history: indexed by time; of several instruments one after the other, with a column `symbol`.
        held_out: bars to hold out, over all instruments; at least 1.
        purge: bars of an instrument between training and held-out bars.
        max_gap: what parts segments, as `ml.hyperparameters.parse_gap` reads it.
        later: bars after the held-out ones that neither part gets.
    """
    times = times_of(history)
    instruments = instrument_slices(history)
    first, after = len(times) - later - held_out, len(times) - later
    in_order = times if len(instruments) == 1 else np.partition(times, [first, after] if later else [first])
    begin = in_order[first]
    end = in_order[after] if later else None
    bounds = segment_bounds(history, max_gap)
    training_end = begin
    for rows in instruments.values():
        first_held_out = rows.start + int(np.searchsorted(times[rows], begin))
        if first_held_out in (rows.start, rows.stop) or first_held_out in bounds:
            continue  # nothing before it, nothing after it, or another segment: no label looks across
        segment = bounds[np.searchsorted(bounds, first_held_out) - 1]
        training_end = min(training_end, times[max(segment, first_held_out - purge)])
    return TimeSplit(_moment(training_end), _moment(begin), None if end is None else _moment(end))


def _moment(nanoseconds: int) -> pd.Timestamp:
    return cast(pd.Timestamp, pd.Timestamp(int(nanoseconds), tz="UTC"))


def slices_between(history: pd.DataFrame, begin: pd.Timestamp | None, end: pd.Timestamp | None) -> list[slice]:
    """The rows of every instrument from begin on and before end."""
    times = times_of(history)
    found = []
    for rows in instrument_slices(history).values():
        first, last = (
            edge if moment is None else rows.start + int(np.searchsorted(times[rows], moment.value))
            for moment, edge in ((begin, rows.start), (end, rows.stop))
        )
        found.append(slice(first, last))
    return found


def rows_between(history: pd.DataFrame, begin: pd.Timestamp | None, end: pd.Timestamp | None) -> pd.DataFrame:
    """The rows of every instrument from begin on and before end; a view where there is one instrument."""
    parts = [history.iloc[rows] for rows in slices_between(history, begin, end)]
    return parts[0] if len(parts) == 1 else pd.concat(parts)


def rows_from(history: pd.DataFrame, moment: pd.Timestamp) -> int:
    """How many rows are from a moment on, over all instruments."""
    return int(np.count_nonzero(times_of(history) >= moment.value))


def longest_segment(bounds: np.ndarray, parts: list[slice]) -> int:
    """Rows of the longest segment within parts of a history whose segments are known by their bounds."""
    longest = 0
    for part in parts:
        inside = bounds[(bounds > part.start) & (bounds < part.stop)]
        longest = max(longest, int(np.diff(inside, prepend=part.start, append=part.stop).max()))
    return longest


def times_of(history: pd.DataFrame) -> np.ndarray:
    """The rows' times in nanoseconds since 1970."""
    return pd.DatetimeIndex(history.index).as_unit("ns").asi8
