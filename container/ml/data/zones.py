"""Times of a zone as times of UTC: no hour is lost where clocks are set back, and none is made up."""

from typing import NamedTuple

import numpy as np
import pandas as pd

_DAY = 86_400 * 10**9  # in nanoseconds


class Times(NamedTuple):
    """A column as times.

    Attributes:
        values: nanoseconds since 1970 in UTC, int64, (rows,).
        form: how they are written, such as `ISO 8601` or `milliseconds since 1970`.
        zone: where they belong, such as `UTC` or `Europe/Berlin`.
        naive: whether they carry no zone of their own, so that the setting decides.
        bad: the rows that hold no time; None: all do.
        reason: what is wrong with these rows.
        remedy: what to do about them.
    """

    values: np.ndarray
    form: str
    zone: str = "UTC"
    naive: bool = False
    bad: np.ndarray | None = None
    reason: str = ""
    remedy: str = ""


def in_utc(values: np.ndarray, form: str, timezone: str, bad, reason: str = "is empty", remedy: str = "") -> Times:
    """Local times of a zone, in UTC. The hour that comes twice when clocks are set back is told by the rows' order."""
    remedy = remedy or "give every row a time"
    if timezone == "UTC":
        return Times(values, form, "UTC", True, bad, reason, remedy)
    local = pd.DatetimeIndex(np.where(bad, 0, values) if bad is not None else values)
    placed = local.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    unclear = np.asarray(placed.isna())
    if unclear.any():
        backwards = len(values) > 1 and values[0] > values[-1]
        second = _second_passes(values[::-1], unclear[::-1])[::-1] if backwards else _second_passes(values, unclear)
        placed = local.tz_localize(timezone, ambiguous=second != 1, nonexistent="NaT")
        skipped = np.asarray(placed.isna())
        once = unclear & ~skipped & (second < 0)
        if skipped.any():
            bad = skipped if bad is None else bad | skipped
            reason, remedy = f"does not exist in {timezone} (clocks were set on)", "correct timezone or the rows"
        elif once.any():
            bad = once if bad is None else bad | once
            reason = f"could be either of two hours in {timezone} (clocks were set back) and comes once"
            remedy = "write these times in UTC"
    return Times(placed.asi8, form, timezone, True, bad, reason, remedy)


def _second_passes(values: np.ndarray, unclear: np.ndarray) -> np.ndarray:
    """For rows in order of time: 0 before the clocks are set back, 1 after it, -1 where that cannot be told."""
    result = np.zeros(len(values), np.int8)
    rows = np.flatnonzero(unclear)
    # Rows of one night lie within hours of each other.
    for night in np.split(rows, np.flatnonzero(np.diff(values[rows]) > _DAY // 4) + 1):
        steps_back = np.flatnonzero(np.diff(values[night]) <= 0)
        result[night] = -1 if len(steps_back) != 1 else np.arange(len(night)) > steps_back[0]
    return result
