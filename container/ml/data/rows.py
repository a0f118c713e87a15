"""Rows as they were read, on their way to a price history: what is mended in them, and what is refused."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

_LOWEST, _HIGHEST = 1e-15, 1e15  # prices whose smallest and largest moves a float32 still holds
_HOUR = 3600 * 10**9  # in nanoseconds
_OUTSIDE = 1e-9  # share of a price by which mid may lie outside bid and ask, for rounding


@dataclasses.dataclass
class Mended:
    """What was mended in rows that say clearly enough what they mean; for the log and job.json.

    Attributes:
        missing: rows without a price, left out.
        repeated: rows that came again with the same values, left out.
        crossed: rows whose bid was above their ask; both are now mid.
        newest_first: whether the rows were in the opposite order.
    """

    missing: int = 0
    repeated: int = 0
    crossed: int = 0
    newest_first: bool = False

    def add(self, other: "Mended") -> None:
        """Adds what was mended in other rows."""
        self.missing += other.missing
        self.repeated += other.repeated
        self.crossed += other.crossed
        self.newest_first |= other.newest_first

    def __str__(self) -> str:
        told = [
            "newest first, now sorted" if self.newest_first else "",
            f"{_rows(self.missing)} without a price left out" if self.missing else "",
            f"{_rows(self.repeated)} came again and {_are(self.repeated)} left out" if self.repeated else "",
            f"{_rows(self.crossed)} with crossed quotes (bid above ask) {_are(self.crossed)} given no spread"
            if self.crossed
            else "",
        ]
        return "; ".join(filter(None, told))


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


class Rows(NamedTuple):
    """Rows as they were read, not yet checked.

    Attributes:
        times: nanoseconds since 1970 in UTC, int64, (rows,).
        values: name of `COLUMNS` to float64, (rows,).
        place: says where a row was read.
        naive: whether the times carried no zone and none was set, so that they may be local ones.
    """

    times: np.ndarray
    values: dict[str, np.ndarray]
    place: Callable[[int], str]
    naive: bool = False


def with_mid(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values with the middle of bid and ask as mid, where there is none."""
    return values if "mid" in values else {"mid": (values["bid"] + values["ask"]) / 2} | values


def settled(rows: Rows, mended: Mended | None, repeats: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Rows as a price history, and what is wrong with them, the first row of each kind of fault.

    Args:
        rows: in the order in which they were read.
        mended: is told what was mended; None: nothing is mended, but wrong.
        repeats: whether a time may come twice with different values, as trades' may.

    Returns:
        The history, which is of use only where nothing is wrong.
    """
    problems = _wrong_values(rows, lenient=mended is not None)
    prices = [values for name, values in rows.values.items() if name != "position"]
    missing = np.isnan(prices[0])
    for values in prices[1:]:
        missing = missing | np.isnan(values)
    times, values, kept = rows.times, dict(rows.values), None
    if missing.any():
        if mended is None:
            return pd.DataFrame(), problems
        mended.missing += int(missing.sum())
        kept = np.flatnonzero(~missing)
        times, values = times[kept], {name: column[kept] for name, column in values.items()}
    if "bid" in values:
        problems += _uncross(values, rows, kept, mended)
    order, wrong = _order(
        times, values, lambda row: rows.place(int(row if kept is None else kept[row])), rows, mended, repeats
    )
    problems += wrong
    if order is not None and not wrong:
        times, values = times[order], {name: column[order] for name, column in values.items()}
    index = pd.DatetimeIndex(times.view("datetime64[ns]"), name="dt").tz_localize("UTC")
    return pd.DataFrame(values, index), problems


def told(wrong: np.ndarray, problem: str, rows: Rows, values: np.ndarray | None = None, remedy: str = "") -> list[str]:
    """The sentence about rows that are wrong; none where no row is."""
    if not wrong.any():
        return []
    row = int(np.argmax(wrong))
    shown = "" if values is None else f" ({values[row]})"
    return [f"{problem} in {int(wrong.sum()):,} of {len(wrong):,} rows, the first at {rows.place(row)}{shown}{remedy}"]


def _wrong_values(rows: Rows, lenient: bool) -> list[str]:
    problems = []
    for name, values in rows.values.items():
        if not lenient or name == "position":
            empty = np.isnan(values)
            if name == "position" and lenient:
                empty &= ~np.isnan(rows.values["mid"])
            problems += told(empty, f"{name} is NaN", rows, remedy="; drop or fill these rows")
        if name == "position":
            wrong = ~(np.isnan(values) | np.isin(values, (-1, 0, 1)))
            problems += told(wrong, "position is not -1, 0 or 1", rows, values)
            continue
        lowest, highest = np.nanmin(values, initial=1), np.nanmax(values, initial=1)
        if lowest >= _LOWEST and highest <= _HIGHEST:
            continue
        infinite = np.isinf(values)
        problems += told(infinite, f"{name} is infinite", rows, values, "; mend or remove these rows")
        low = (values <= 0) & ~infinite
        problems += told(low, f"{name} is not above 0", rows, values, "; mend or remove these rows")
        outside = ((values < _LOWEST) | (values > _HIGHEST)) & ~infinite & ~low
        span = f"{_LOWEST:g} to {_HIGHEST:g}"
        problems += told(outside, f"{name} is not within {span}", rows, values, "; write prices in another unit")
    return problems


def _uncross(values: dict[str, np.ndarray], rows: Rows, kept: np.ndarray | None, mended: Mended | None) -> list[str]:
    """Takes the spread of crossed quotes away; returns what cannot be mended."""
    mid, bid, ask = values["mid"], values["bid"], values["ask"]
    crossed = bid > ask
    here = rows if kept is None else rows._replace(place=lambda row: rows.place(int(kept[row])))
    problems = []
    if crossed.any() and mended is None:
        problems += told(crossed, "bid is above ask", here, bid, "; swap them or remove these rows")
    low, high = np.minimum(bid, ask), np.maximum(bid, ask)
    outside = (mid < low * (1 - _OUTSIDE)) | (mid > high * (1 + _OUTSIDE))
    if outside.any() and not (crossed.any() and mended is None):
        row = int(np.argmax(outside))
        problems += told(
            outside, "mid is outside bid and ask", here,
            remedy=f" (mid {mid[row]}, bid {bid[row]}, ask {ask[row]}); name the right columns by price_column, "
            "bid_column and ask_column, or leave mid out",
        )  # fmt: skip
    if crossed.any() and mended is not None:
        mended.crossed += int(crossed.sum())
        values["bid"], values["ask"] = np.where(crossed, mid, bid), np.where(crossed, mid, ask)
    return problems


def _order(
    times, values, place, rows: Rows, mended: Mended | None, repeats: bool
) -> tuple[np.ndarray | None, list[str]]:
    """The rows to keep, in the order of time (None: all, as they are), and why there is no such order."""
    if len(times) and int(times.max()) - int(times.min()) > np.iinfo(np.int64).max:  # differences would wrap around
        first, last = place(int(np.argmin(times))), place(int(np.argmax(times)))
        return None, [f"times reach over more than 292 years, from {first} to {last}; remove the rows that are wrong"]
    steps = np.diff(times)
    if not len(steps) or steps.min() > 0:
        return None, []
    order = np.arange(len(times))
    if mended is None:
        back, same = np.r_[False, steps < 0], np.r_[False, steps == 0]
        here = rows._replace(place=place)
        return None, told(back, "times go backwards", here, remedy="; sort the rows by dt") + told(
            same, "a time comes twice", here, remedy="; keep one row a bar"
        )
    newest_first = bool(steps.max() <= 0 and steps.min() < 0)
    if newest_first:
        order = order[::-1]
    ranked = order[np.argsort(times[order], kind="stable")]
    again = np.diff(times[ranked]) == 0
    same = again.copy()
    for column in values.values():
        one, other = column[ranked][:-1], column[ranked][1:]
        same &= (one == other) | (np.isnan(one) & np.isnan(other))
    if not repeats:
        contradicting = np.flatnonzero(again & ~same)
        if len(contradicting):
            clock = _set_back(times, rows.naive, place)
            return None, [clock or _contradiction(ranked, contradicting, times, values, place)]
        ranked = ranked[np.r_[True, ~same]]
        mended.repeated += int(same.sum())
    in_file = np.sort(ranked) if not newest_first else np.sort(ranked)[::-1]
    steps = np.diff(times[in_file])
    if len(steps) and steps.max() <= 0 and steps.min() < 0 and not newest_first:
        newest_first, in_file, steps = True, in_file[::-1], -steps[::-1]
    if (steps < 0).any():
        row = int(np.argmax(steps < 0)) + 1
        clock = _set_back(times, rows.naive, place)
        return None, [
            clock
            or f"times go backwards in {int((steps < 0).sum()):,} of {len(times):,} rows, the first at "
            f"{place(in_file[row])}; sort the rows by their time"
        ]
    mended.newest_first |= newest_first
    return in_file, []


def _set_back(times: np.ndarray, naive: bool, place) -> str:
    """The sentence about times that go back by up to an hour now and then, as local ones do in autumn; or nothing."""
    last = len(times) - 1
    newest_first = times[0] > times[last]
    times = times[::-1] if newest_first else times
    steps = np.diff(times)
    back = np.flatnonzero(steps < 0)
    if not naive or not len(back) or len(back) > 1 + len(times) // 1000 or steps[back].min() < -_HOUR:
        return ""
    row = int(back[0]) + 1
    moments = pd.DatetimeIndex(times[row - 1 : row + 1].view("datetime64[ns]"))
    if moments[1].hour > 4 and moments[0].hour > 4:
        return ""
    where = place(last - row if newest_first else row)
    return (
        f"times go back from {moments[0]} to {moments[1]} at {where}, as local times do when clocks are set back; "
        "set timezone to where they belong, such as timezone=Europe/Berlin, and no hour is lost"
    )


def _contradiction(ranked, found: np.ndarray, times, values, place) -> str:
    at = int(found[0])
    one, other = int(ranked[at]), int(ranked[at + 1])
    name = next(name for name, column in values.items() if column[one] != column[other])
    moment = pd.Timestamp(int(times[one]), unit="ns", tz="UTC")
    return (
        f"{len(found):,} time{'s come' if len(found) > 1 else ' comes'} twice with different values, the first is "
        f"{moment}: {name} {values[name][one]} at {place(one)} and {values[name][other]} at {place(other)}; keep one "
        "row a bar, or set resample where these are trades"
    )
