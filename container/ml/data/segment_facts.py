"""What a history's gaps and still prices do to its windows and labels, counted before the training."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml.data.given_positions import GivenLook, given_look
from ml.segments import segment_bounds, valid_starts

_ACROSS = 30 * 60 * 10**9  # nanoseconds between two bars that a reader wants to know of
_STILL = 2 * 3600 * 10**9  # nanoseconds that the price stands still in a filled stretch, at least
_STILL_ROWS = 60  # and the bars of one


class Filled(NamedTuple):
    """A stretch of the same price for hours, as filling a history forward leaves it."""

    rows: int
    first: str
    last: str
    symbol: str


@dataclasses.dataclass
class SegmentFacts:
    """Counts over one instrument, or over several once they are added up.

    Attributes:
        max_gap: longest time between two bars of a segment.
        across: minutes; a window or label that reaches across a longer step between two bars is counted.
        count: segments.
        windows: that there are, flat ones included.
        windows_lost: that there would be besides without the cuts.
        windows_across: that reach across a step longer than `across`.
        windows_flat: whose prices are all the same.
        labels: computed from the bars ahead of them; 0 where the positions are the user's own.
        labels_across: of them, as windows_across.
        longest_look: minutes that a label looks ahead, at most.
        filled: stretches of the same price for hours.
        filled_rows: bars in them.
        longest_filled: the longest of them.
        given_look: of the user's own positions, where they are seen to look further ahead than horizon.
    """

    max_gap: str
    across: float = _ACROSS / 60e9
    count: int = 0
    windows: int = 0
    windows_lost: int = 0
    windows_across: int = 0
    windows_flat: int = 0
    labels: int = 0
    labels_across: int = 0
    longest_look: float = 0.0
    filled: int = 0
    filled_rows: int = 0
    longest_filled: Filled | None = None
    given_look: GivenLook | None = None

    def add(self, other: "SegmentFacts") -> None:
        """Adds another instrument's."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, int):
                setattr(self, field.name, mine + theirs)
        self.across = max(self.across, other.across)
        self.longest_look = max(self.longest_look, other.longest_look)
        stretches = [each for each in (self.longest_filled, other.longest_filled) if each]
        self.longest_filled = max(stretches, default=None)
        self.given_look = max((each for each in (self.given_look, other.given_look) if each), default=None)

    def as_json(self) -> dict[str, Any]:
        """As job.json keeps them, with the shares that the log tells."""
        longest = self.longest_filled._asdict() if self.longest_filled else None
        return dataclasses.asdict(self) | {
            "longest_filled": longest,
            "given_look": self.given_look._asdict() if self.given_look else None,
            "share_windows_across": _share(self.windows_across, self.windows),
            "share_windows_flat": _share(self.windows_flat, self.windows),
            "share_labels_across": _share(self.labels_across, self.labels) if self.labels else None,
            "longest_look": self.longest_look if self.labels else None,
            "summary": self.lines(),
        }

    def lines(self) -> list[str]:
        """For the log and the report."""
        across = in_words(self.across)
        reach = f"{_share(self.windows_across, self.windows):.1%} of the windows"
        if self.labels:
            reach += f" and {_share(self.labels_across, self.labels):.1%} of the labels"
        found = [
            f"segments: {self.count:,} with max_gap {self.max_gap}, "
            f"{self.windows_lost or 'no':{',' if self.windows_lost else ''}} windows lost to cuts",
            f"{reach} reach across more than {across} without a bar"
            + (f"; a label looks ahead {in_words(self.longest_look)} at most" if self.labels else ""),
        ]
        if self.windows_flat:
            share = _share(self.windows_flat, self.windows)
            found.append(f"{share:.1%} of the windows are flat: left out of training and scores")
        if self.longest_filled:
            longest = self.longest_filled
            of_symbol = f" of {longest.symbol}" if longest.symbol else ""
            found.append(
                f"filled: the price{of_symbol} is the same from {longest.first} to {longest.last} ({longest.rows:,} "
                f"bars); {self.filled:,} such stretch{'' if self.filled == 1 else 'es'} of hours, "
                f"{self.filled_rows:,} bars in all, as filling a history forward leaves them"
            )
        if self.given_look:
            found.append(self.given_look.line())
        return found


def segment_facts(history: pd.DataFrame, lookback: int, horizon: int, max_gap: str, symbol: str = "") -> SegmentFacts:
    """What the gaps of one instrument's history do to its windows and labels.

    Args:
        history: mid, before its labels are computed, indexed by time.
        lookback: bars of a window.
        horizon: bars that a label looks ahead.
        max_gap: longest time between two bars of a segment.
        symbol: the instrument's name.
    """
    times, mid = pd.DatetimeIndex(history.index).as_unit("ns").asi8, history["mid"].to_numpy()
    look = 0 if "position" in history else horizon
    steps = np.diff(times, prepend=times[:1])
    across = max(_ACROSS, int(np.median(steps[1:])) if len(steps) > 1 else 0)
    reached = np.cumsum(steps > across, dtype=np.int32)
    moved = np.cumsum(np.diff(mid, prepend=mid[:1]) != 0, dtype=np.int32)
    bounds = segment_bounds(history, max_gap)
    valid = valid_starts(bounds, lookback + look)
    starts = np.flatnonzero(valid)
    facts = SegmentFacts(
        max_gap=max_gap,
        across=across / 60e9,
        count=len(bounds) - 1,
        windows=len(starts),
        windows_lost=len(valid) - len(starts),
        windows_across=int(np.count_nonzero(reached[starts + lookback - 1] > reached[starts])),
        windows_flat=int(np.count_nonzero(moved[starts + lookback - 1] == moved[starts])),
    )
    if look:
        at = np.flatnonzero(valid_starts(bounds, look + 1))
        facts.labels = len(at)
        facts.labels_across = int(np.count_nonzero(reached[at + look] > reached[at]))
        facts.longest_look = float((times[at + look] - times[at]).max() / 60e9) if len(at) else 0.0
    if not look:
        facts.given_look = given_look(history, horizon, symbol)
    _count_filled(facts, history, times, moved, symbol)
    return facts


def _count_filled(
    facts: SegmentFacts, history: pd.DataFrame, times: np.ndarray, moved: np.ndarray, symbol: str
) -> None:
    begins = np.flatnonzero(np.diff(moved, prepend=-1))
    ends = np.append(begins[1:], len(moved))
    long = (ends - begins >= _STILL_ROWS) & (times[ends - 1] - times[begins] >= _STILL)
    if not long.any():
        return
    begins, ends = begins[long], ends[long]
    longest = int(np.argmax(ends - begins))
    first, last = (str(history.index[row]) for row in (begins[longest], ends[longest] - 1))
    facts.filled, facts.filled_rows = len(begins), int((ends - begins).sum())
    facts.longest_filled = Filled(int(ends[longest] - begins[longest]), first, last, symbol)


def in_words(minutes: float) -> str:
    """A time in the largest unit that keeps it at least 1, with one decimal where it is not whole.

    >>> in_words(30), in_words(407), in_words(87840)
    ('30 minutes', '6.8 hours', '61 days')
    """
    for name, length in (("days", 1440), ("hours", 60), ("minutes", 1)):
        if minutes >= length:
            return f"{minutes / length:.1f}".removesuffix(".0") + f" {name}"
    return f"{minutes * 60:g} seconds"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
