"""What a price history is: the check that all histories pass through, their times, their gaps.

A price history is a frame indexed by `dt` (UTC, ascending, unique), float64, with `mid`, and `position`,
`bid`, `ask` where known. Naive times are UTC. It is checked once, where it enters; what is wrong is told
with its row.
"""

import hashlib
from datetime import date, datetime, time
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.bars import MINUTE, bar_length, in_words
from ml.data.rows import Mended, Rows, settled, with_mid
from ml.errors import UserError, one_line

COLUMNS = ("mid", "position", "bid", "ask")


def with_times(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """The frame indexed by `dt` in UTC, not yet in order."""
    if "dt" in frame.columns:
        frame = frame.set_index("dt")
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex):
        if pd.api.types.is_numeric_dtype(index):
            raise UserError(
                f"{source}: it must have a column or index dt with times, such as 2020-06-01T12:30; "
                f"received columns {', '.join(map(str, frame.columns)) or 'none'} and numbers as index"
            )
        try:
            index = pd.to_datetime(index, utc=True, format="ISO8601")
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{source}: dt must hold times such as 2020-06-01T12:30, received something else: {one_line(error)}"
            ) from None
    if index.hasnans:
        raise UserError(
            f"{source}: dt is empty in {int(np.count_nonzero(index.isna())):,} rows, the first is row "
            f"{int(np.argmax(index.isna())) + 1:,}; give every row a time"
        )
    index = index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")
    try:
        index = index.as_unit("ns")
    except pd.errors.OutOfBoundsDatetime as error:
        raise UserError(f"{source}: dt must be between the years 1677 and 2262: {one_line(error)}") from None
    return frame.set_axis(index.rename("dt"))


def checked(frame: pd.DataFrame, *, source: str, mended: Mended | None = None, repeats: bool = False) -> pd.DataFrame:
    """A frame as a price history, or the reasons why it is none.

    Args:
        frame: times as index or column `dt`; `mid`, or `bid` and `ask`, whose middle is then mid; other
            columns than `COLUMNS` are dropped.
        source: where it comes from, for the message.
        mended: is told what was mended; None, as for a frame that is to be written: nothing is, but refused.
        repeats: whether a time may come twice with different values, as trades' may.

    Raises:
        UserError: a column is missing, or rows are wrong: the first of each kind, with how many there are.
    """
    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{source} must be a pandas DataFrame, received {type(frame).__name__}")
    twice = [name for name in ("dt", *COLUMNS) if list(frame.columns).count(name) > 1]
    if twice:
        raise UserError(f"{source} has more than one column {' and '.join(twice)}; keep one of each")
    if not len(frame):
        raise UserError(f"{source} has no rows; check start_date and end_date")
    frame = with_times(frame, source=source)
    if "mid" not in frame and not {"bid", "ask"} <= set(frame.columns):
        raise UserError(
            f"{source}: a column mid is needed, or bid and ask; received {', '.join(map(str, frame.columns)) or 'none'}"
        )
    if ("bid" in frame) != ("ask" in frame):
        frame = frame.drop(columns=["bid", "ask"], errors="ignore")
    values = {}
    for name in (name for name in COLUMNS if name in frame):
        if pd.api.types.is_complex_dtype(frame[name]):
            raise UserError(f"{source}: {name} must hold real numbers, received complex ones")
        try:
            values[name] = frame[name].to_numpy(np.float64, copy=False)
        except (ValueError, TypeError) as error:
            raise UserError(f"{source}: {name} must hold numbers: {one_line(error)}") from None
    rows = Rows(pd.DatetimeIndex(frame.index).asi8, with_mid(values), lambda row: str(frame.index[row]))
    history, problems = settled(rows, mended, repeats)
    if problems:
        raise UserError(f"{source}: {'; '.join(problems)}")
    return history


def bounds(start, end) -> tuple[int | None, int | None]:
    """Start and end in nanoseconds since 1970; None where open."""
    if end is not None and isinstance(end, date) and not isinstance(end, datetime):
        end = datetime.combine(end, time.max)
    first, last = (None if moment is None else _nanoseconds(pd.Timestamp(moment)) for moment in (start, end))
    return first, last


def _nanoseconds(moment: pd.Timestamp) -> int:
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    try:
        return int(moment.as_unit("ns").value)
    except pd.errors.OutOfBoundsDatetime:  # such as 9999-12-31, an end that is open
        return int((pd.Timestamp.max if moment.year > 2000 else pd.Timestamp.min).value)


def between(frame: pd.DataFrame, first: int | None, last: int | None) -> pd.DataFrame:
    times = pd.DatetimeIndex(frame.index).asi8
    begin = 0 if first is None else int(np.searchsorted(times, first, "left"))
    end = len(frame) if last is None else int(np.searchsorted(times, last, "right"))
    return frame.iloc[begin:end]


class Gaps(NamedTuple):
    """Bars that a history lacks.

    Attributes:
        count: places where bars are missing.
        minutes: minutes missing in all of them.
        longest_minutes: minutes missing in the longest.
        longest_at: the last time before it; empty where there is no gap.
        bars: bars missing in all of them.
        longest_bars: bars missing in the longest.
        bar: a bar's length in words, such as `5 minutes`.
    """

    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    minutes: float
    longest_minutes: float
    longest_at: str
    bars: int
    longest_bars: int
    bar: str

    def __str__(self) -> str:
        one = self.bar.removeprefix("1 ")
        single = one if one != self.bar else "bar"
        many = f"{one}s" if one != self.bar else f"bars of {self.bar}"
        if not self.count:
            return f"no {single} missing"
        return (
            f"{self.bars:,} {single if self.bars == 1 and one != self.bar else many} missing in {self.count:,} "
            f"gap{'' if self.count == 1 else 's'} (the longest {self.longest_bars:,} after {self.longest_at})"
        )


def gaps(history: pd.DataFrame) -> Gaps:
    """The gaps of a history; windows run across them."""
    index = pd.DatetimeIndex(history.index)
    bar = bar_length(index)
    missing = np.diff(index.asi8) // bar.value - 1
    words = in_words(bar)
    if not (missing > 0).any():
        return Gaps(0, 0, 0, "", 0, 0, words)
    longest = int(np.argmax(missing))
    bars, longest_bars = int(missing[missing > 0].sum()), int(missing[longest])
    return Gaps(
        int((missing > 0).sum()),
        _minutes(bars, bar),
        _minutes(longest_bars, bar),
        str(history.index[longest]),
        bars,
        longest_bars,
        words,
    )


def _minutes(bars: int, bar: pd.Timedelta) -> float:
    minutes = bars * bar.value / MINUTE.value
    return int(minutes) if minutes == int(minutes) else round(minutes, 3)


def fingerprint(history: pd.DataFrame) -> str:
    """SHA-256 of a history's times and values."""
    digest = hashlib.sha256(np.ascontiguousarray(pd.DatetimeIndex(history.index).asi8).data)
    for name in history.columns:
        digest.update(name.encode("utf-8"))
        digest.update(np.ascontiguousarray(history[name].to_numpy()).data)
    return digest.hexdigest()
