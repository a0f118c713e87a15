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

from ml.errors import UserError, one_line

COLUMNS = ("mid", "position", "bid", "ask")

_LOWEST, _HIGHEST = 1e-15, 1e15  # prices whose smallest and largest moves a float32 still holds
_MINUTE = 60 * 10**9  # in nanoseconds


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
            f"{source}: dt is empty in {int(index.isna().sum()):,} rows, the first is row "
            f"{int(np.argmax(index.isna())) + 1:,}; give every row a time"
        )
    index = index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")
    try:
        index = index.as_unit("ns")
    except pd.errors.OutOfBoundsDatetime as error:
        raise UserError(f"{source}: dt must be between the years 1677 and 2262: {one_line(error)}") from None
    return frame.set_axis(index.rename("dt"))


def checked(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """A frame as a price history, or the reason why it is none.

    Args:
        frame: times as index or column `dt`; `mid`, or `bid` and `ask`, whose middle is then mid; other
            columns than `COLUMNS` are dropped.
        source: where it comes from, for the message.

    Raises:
        UserError: a column is missing, or the first of the rows that are wrong, with how many there are.
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
    history = {}
    for name in (name for name in COLUMNS if name in frame):
        if pd.api.types.is_complex_dtype(frame[name]):
            raise UserError(f"{source}: {name} must hold real numbers, received complex ones")
        try:
            history[name] = frame[name].to_numpy(np.float64, copy=False)
        except (ValueError, TypeError) as error:
            raise UserError(f"{source}: {name} must hold numbers: {one_line(error)}") from None
    if "mid" not in history:
        history = {"mid": (history["bid"] + history["ask"]) / 2} | history

    def refuse(wrong: np.ndarray, problem: str, values: np.ndarray | None = None, remedy: str = "") -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = "" if values is None else f" ({values[row]})"
            raise UserError(
                f"{source}: {problem} in {int(wrong.sum()):,} of {len(wrong):,} rows, the first at "
                f"{frame.index[row]}{shown}{remedy}"
            )

    steps = np.diff(frame.index.asi8, prepend=frame.index.asi8[0] - 1)
    refuse(steps < 0, "times go backwards", remedy="; sort the rows by dt")
    refuse(steps == 0, "a time comes twice", remedy="; keep one row a minute")
    for name, values in history.items():
        refuse(np.isnan(values), f"{name} is NaN", remedy="; drop or fill these rows")
        refuse(np.isinf(values), f"{name} is infinite", values)
        if name == "position":
            refuse(~np.isin(values, (-1, 0, 1)), "position is not -1, 0 or 1", values)
        else:
            refuse(values <= 0, f"{name} is not above 0", values)
            refuse(
                (values < _LOWEST) | (values > _HIGHEST),
                f"{name} is not within {_LOWEST:g} to {_HIGHEST:g}",
                values,
                "; write prices in another unit",
            )
    if "bid" in history:
        refuse(history["bid"] > history["ask"], "bid is above ask", history["bid"])
    return pd.DataFrame(history, frame.index)


def bounds(start, end) -> tuple[int | None, int | None]:
    """Start and end in nanoseconds since 1970; None where open."""
    if end is not None and isinstance(end, date) and not isinstance(end, datetime):
        end = datetime.combine(end, time.max)
    return tuple(None if moment is None else _nanoseconds(pd.Timestamp(moment)) for moment in (start, end))


def _nanoseconds(moment: pd.Timestamp) -> int:
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    try:
        return int(moment.as_unit("ns").value)
    except pd.errors.OutOfBoundsDatetime:  # such as 9999-12-31, an end that is open
        return int((pd.Timestamp.max if moment.year > 2000 else pd.Timestamp.min).value)


def between(frame: pd.DataFrame, first: int | None, last: int | None) -> pd.DataFrame:
    times = frame.index.asi8
    begin = 0 if first is None else int(np.searchsorted(times, first, "left"))
    end = len(frame) if last is None else int(np.searchsorted(times, last, "right"))
    return frame.iloc[begin:end]


class Gaps(NamedTuple):
    """Minutes that a history lacks.

    Attributes:
        count: places where minutes are missing.
        minutes: minutes missing in all of them.
        longest_minutes: minutes missing in the longest.
        longest_at: the last time before it; empty where there is no gap.
    """

    count: int
    minutes: int
    longest_minutes: int
    longest_at: str

    def __str__(self) -> str:
        if not self.count:
            return "no minute missing"
        return (
            f"{self.minutes:,} minutes missing in {self.count:,} gaps (the longest {self.longest_minutes:,} after "
            f"{self.longest_at})"
        )


def gaps(history: pd.DataFrame) -> Gaps:
    """The gaps of a history; windows run across them."""
    missing = np.diff(history.index.asi8) // _MINUTE - 1
    if not (missing > 0).any():
        return Gaps(0, 0, 0, "")
    longest = int(np.argmax(missing))
    return Gaps(
        int((missing > 0).sum()), int(missing[missing > 0].sum()), int(missing[longest]), str(history.index[longest])
    )


def fingerprint(history: pd.DataFrame) -> str:
    """SHA-256 of a history's times and values."""
    digest = hashlib.sha256(np.ascontiguousarray(history.index.asi8))
    for name in history.columns:
        digest.update(name.encode("utf-8"))
        digest.update(np.ascontiguousarray(history[name].to_numpy()))
    return digest.hexdigest()
