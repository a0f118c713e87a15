"""What bars of a length are called on pages and in sentences; `ml.bars` finds the length."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

DAY = pd.Timedelta(days=1)

_UNITS = (
    ("days", DAY),
    ("hours", pd.Timedelta(hours=1)),
    ("minutes", pd.Timedelta(minutes=1)),
    ("seconds", pd.Timedelta(seconds=1)),
    ("milliseconds", pd.Timedelta(milliseconds=1)),
)


def bars_of(bar: pd.Timedelta) -> str:
    """What several bars of a length are called.

    >>> bars_of(pd.Timedelta(minutes=1)), bars_of(pd.Timedelta(minutes=5)), bars_of(pd.Timedelta(hours=1))
    ('minutes', 'bars of 5 minutes', 'hours')
    """
    for name, unit in _UNITS:
        if bar == unit:
            return name
        if bar % unit == pd.Timedelta(0):
            return f"bars of {bar // unit:,} {name}"
    return f"bars of {bar / pd.Timedelta(seconds=1):g} seconds"


def counted(count: int, bar: pd.Timedelta) -> str:
    """A number of bars in words.

    >>> counted(1440, pd.Timedelta(minutes=1)), counted(288, pd.Timedelta(minutes=5))
    ('1,440 minutes', '288 bars of 5 minutes')
    """
    return f"{count:,} {bars_of(bar)}"


def bars_a_day(bar: pd.Timedelta) -> int:
    """How many bars a day has; 1 where a bar is a day or longer."""
    return max(1, round(DAY / bar))


def missing_bars(indexes: Sequence[pd.Index], bar: pd.Timedelta) -> str:
    """How many bars histories lack between their first and their last, in words."""
    total = gaps = longest = 0
    after = None
    for index in indexes:
        missing = _steps(index) // bar.value - 1
        found = missing[missing > 0]
        total, gaps = total + int(found.sum()), gaps + len(found)
        if len(found) and found.max() > longest:
            longest, after = int(found.max()), index[int(np.argmax(missing))]
    if after is None:
        return "none"
    return (
        f"{counted(total, bar)} in {gaps:,} gap{'s' if gaps > 1 else ''}, the longest {longest:,} after "
        f"{after:{moment_format(bar)}}"
    )


def moment_format(bar: pd.Timedelta) -> str:
    """The strftime format of a bar's time, no finer than the bars are."""
    if bar % DAY == pd.Timedelta(0):
        return "%Y-%m-%d"
    return "%Y-%m-%d %H:%M" if bar % pd.Timedelta(minutes=1) == pd.Timedelta(0) else "%Y-%m-%d %H:%M:%S"


def _steps(index: pd.Index) -> np.ndarray:
    """Nanoseconds between a history's rows."""
    return np.diff(pd.DatetimeIndex(index).as_unit("ns").asi8)
