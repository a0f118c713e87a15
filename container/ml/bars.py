"""The length of a history's bars, in figures and in words."""

import numpy as np
import pandas as pd

MINUTE = pd.Timedelta(minutes=1)
_SECOND_NS, _MINUTE_NS = 10**9, 60 * 10**9
_USUAL = (1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 14400, 86400)  # seconds
_UNITS = (
    ("day", 86_400 * 10**9),
    ("hour", 3600 * 10**9),
    ("minute", _MINUTE_NS),
    ("second", _SECOND_NS),
    ("millisecond", 10**6),
    ("microsecond", 10**3),
    ("nanosecond", 1),
)
_IN_SETTINGS = {
    "ms": 10**6,
    "s": _SECOND_NS,
    "sec": _SECOND_NS,
    "m": _MINUTE_NS,
    "min": _MINUTE_NS,
    "h": 3600 * 10**9,
    "d": 86_400 * 10**9,
}


def bar_length(index: pd.Index) -> pd.Timedelta:
    """The length of a bar: the commonest step between rows, or where none is common, what all steps are multiples of.

    Args:
        index: times, ascending and unique (of several instruments one after the other), (rows,); a minute is taken
            where there are fewer than two rows.
    """
    steps = np.diff(pd.DatetimeIndex(index).as_unit("ns").asi8)
    if not len(steps):
        return MINUTE
    common = _common_step(steps)
    return pd.Timedelta(common or int(np.gcd.reduce(steps)), "ns")


def _common_step(steps: np.ndarray) -> int:
    """The step that at least half of all are; 0 where there is none."""
    # Such a step is the median, or beside it.
    middle = len(steps) // 2
    low, high = np.partition(steps, [max(0, middle - 1), middle])[[max(0, middle - 1), middle]]
    for step in (low, high):
        if 2 * np.count_nonzero(steps == step) >= len(steps):
            return int(step)
    return 0


def irregular(index: pd.DatetimeIndex) -> str:
    """Why rows are no bars of one length, and what to set; empty where they are.

    Bars may be missing, and after a pause they may begin at another phase, as a stock market's do every morning. But
    no two may lie nearer to each other than a bar's length. Where no step is common, as in a market without a trade in
    most minutes, whole minutes are still taken for bars.
    """
    steps = np.diff(index.asi8)
    if not len(steps):
        return ""
    common = _common_step(steps)
    if not common and int(np.gcd.reduce(steps)) % _MINUTE_NS == 0:
        return ""
    if common and steps.min() >= common - _slack(common):
        return ""
    if common:
        at = int(np.argmin(steps))
        usual = in_words(pd.Timedelta(common, "ns"))
        return (
            f"rows are mostly {usual} apart, and those at {index[at]} and {index[at + 1]} only "
            f"{in_words(pd.Timedelta(int(steps[at]), 'ns'))}; remove the rows between the bars, or set "
            f"resample={as_setting(common)}"
        )
    median = int(np.median(steps))
    return (
        f"rows are not evenly spaced, as trades are ({in_words(pd.Timedelta(int(steps.min()), 'ns'))} to "
        f"{in_words(pd.Timedelta(int(steps.max()), 'ns'))} apart); set resample to a bar's length, such as "
        f"resample={as_setting(_usual(median))}, to keep the last price of each"
    )


def _slack(step: int) -> int:
    """A day of a zone with summer time may be an hour shorter."""
    return 3600 * 10**9 if step >= 86_400 * 10**9 else 0


def _usual(step: int) -> int:
    return max(60, *(seconds for seconds in _USUAL if seconds * 10**9 <= max(step, 60 * 10**9))) * 10**9


def in_words(bar: pd.Timedelta) -> str:
    """A length as people say it: `1 minute`, `5 minutes`, `1 hour`, `90 seconds`."""
    size = bar.value
    name, unit = next((name, unit) for name, unit in _UNITS if size % unit == 0 and (size >= unit or unit == 1))
    count = size // unit
    if size > unit and count > 9999:  # a span nobody counts in milliseconds
        name, unit = next((name, unit) for name, unit in _UNITS if size >= unit)
        return f"{size / unit:.1f} {name}s"
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def as_setting(nanoseconds: int) -> str:
    """A length as the setting `resample` takes it: `1min`, `30s`."""
    for unit, name in ((86_400 * 10**9, "d"), (3600 * 10**9, "h"), (_MINUTE_NS, "min"), (_SECOND_NS, "s")):
        if nanoseconds % unit == 0:
            return f"{nanoseconds // unit}{name}"
    return f"{max(1, nanoseconds // 10**6)}ms"


def from_setting(text: str) -> pd.Timedelta:
    """The length that the setting `resample` means; it was checked by `ml.settings`."""
    unit = text.lstrip("0123456789")
    return pd.Timedelta(int(text.removesuffix(unit) or 1) * _IN_SETTINGS[unit], "ns")
