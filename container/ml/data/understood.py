"""A price history with what was understood of where it came from: one line for the log, plain values for job.json."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml.bars import bar_length as length_of
from ml.bars import from_setting, in_words, irregular
from ml.data.rows import Mended
from ml.errors import UserError

_SPIKE = 50  # times the mean move: a move to one bar's price and back that large is taken for an error of the feed
_JUMP = 1.5  # factor of a move in one bar that stays, as where files of two instruments follow each other
_SHOWN = 3  # files left out, and moves, that the line names


@dataclasses.dataclass
class Understood:
    """What was understood of a history's source.

    Attributes:
        source: a file, how many of them, or a key in KYDB.
        form: kind of the files, such as `CSV, gzip`; empty for KYDB.
        columns: `time`, `mid`, `bid`, `ask`, `position` to the name or number of the column it was read from.
        times: how times are written.
        zone: the zone that they were read in.
        rows_read: rows of the files between the dates.
        mended: what was mended.
        files: name, bytes and sha256 of each.
        left_out: files that hold no prices, with why.
        resample: the bar that rows were put into; empty: they are bars.
        bar: length of a bar.
        rows: bars of the history.
        first: its first time.
        last: its last time.
        moves: sentences about prices that an error of the feed could have made.
    """

    source: str
    form: str = ""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    times: str = ""
    zone: str = ""
    rows_read: int = 0
    mended: Mended = dataclasses.field(default_factory=Mended)
    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)
    resample: str = ""
    bar: pd.Timedelta = pd.Timedelta(minutes=1)
    rows: int = 0
    first: pd.Timestamp | None = None
    last: pd.Timestamp | None = None
    moves: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        """One line for the log."""
        kind = f" ({self.form})" if self.form else ""
        columns = [f"{name} in {column}" for name, column in self.columns.items() if name not in ("time", "mid")]
        time = f"times in {self.columns['time']} ({self.times}, {self.zone})" if "time" in self.columns else ""
        price = f"price in {self.columns['mid']}" if "mid" in self.columns else ""
        bars = "bar" if self.rows == 1 else "bars"
        told = [
            ", ".join(filter(None, [time, price, *columns])),
            f"{self.rows:,} {bars} of {in_words(self.bar)} from {_moment(self.first)} to {_moment(self.last)} UTC",
            f"the last price of each {self.resample} of {self.rows_read:,} rows" if self.resample else "",
            str(self.mended),
            *self.moves,
            f"no prices in {_some(self.left_out)}" if self.left_out else "",
        ]
        return f"{self.source}{kind}: {'; '.join(filter(None, told))}"

    def as_json(self) -> dict[str, Any]:
        """Plain values for job.json."""
        return {
            "line": str(self),
            "source": self.source,
            "format": self.form,
            "columns": self.columns,
            "times": self.times,
            "timezone": self.zone,
            "rows_read": self.rows_read,
            **dataclasses.asdict(self.mended),
            "resample": self.resample,
            "rows": self.rows,
            "bar": in_words(self.bar),
            "bar_seconds": self.bar.value / 1e9,
            "first": str(self.first),
            "last": str(self.last),
            "moves": self.moves,
            "left_out": self.left_out,
            "files": self.files,
        }


class History(NamedTuple):
    """A price history and what was understood of its source."""

    frame: pd.DataFrame
    understood: Understood


def finished(frame: pd.DataFrame, understood: Understood, resample: str = "") -> History:
    """A whole history: rows put into bars where that is asked for, their length found, and looked at as a whole.

    Raises:
        UserError: there are no rows, they are no bars of one length, or the price never moves.
    """
    source = understood.source
    if not len(frame):
        raise UserError(f"{source} has no rows; check start_date and end_date")
    if resample:
        frame = resampled(frame, from_setting(resample))
        understood.resample, understood.bar = resample, from_setting(resample)
    else:
        problem = irregular(pd.DatetimeIndex(frame.index))
        if problem:
            raise UserError(f"{source}: {problem}")
        understood.bar = length_of(pd.DatetimeIndex(frame.index))
    mid = frame["mid"].to_numpy()
    if len(mid) > 1 and mid[0] == mid[-1] and (mid == mid[0]).all():
        raise UserError(
            f"{source}: the price never moves, it is {mid[0]} in all {len(mid):,} rows from {frame.index[0]} to "
            f"{frame.index[-1]}; there is nothing to learn: check the file, and price_column where it is set"
        )
    understood.rows, understood.first, understood.last = len(frame), frame.index[0], frame.index[-1]
    understood.moves = odd_moves(frame)
    return History(frame, understood)


def resampled(frame: pd.DataFrame, bar: pd.Timedelta) -> pd.DataFrame:
    """The last row of each bar, at the bar's beginning; bars without a row are missing."""
    begins = pd.DatetimeIndex(frame.index).asi8 // bar.value * bar.value
    last = np.flatnonzero(np.r_[begins[1:] != begins[:-1], True])
    index = pd.DatetimeIndex(begins[last].view("datetime64[ns]"), name="dt").tz_localize("UTC")
    return frame.iloc[last].set_axis(index)


def one_label(rows: int, buys: int) -> str:
    """Why labelled rows have nothing to tell apart; empty where they have both classes."""
    if 0 < buys < rows:
        return ""
    return (
        f"all {rows:,} rows are labelled {'buy' if buys else 'sell'}, and there is nothing to tell apart; use "
        "more data, a longer horizon or a smaller spread"
    )


def odd_moves(frame: pd.DataFrame) -> list[str]:
    """Sentences about moves that an error of the feed could have made: to one bar's price and back, or by a factor.

    A bar is told where the moves to it and from it are opposite, each more than 50 times the mean move, and cancel to a
    tenth. On the three years of real minutes that this was tried on, that is no bar at all or a few.
    """
    mid = frame["mid"].to_numpy()
    if len(mid) < 3:
        return []
    moves = np.diff(np.log(mid))
    size = np.abs(moves)
    least = max(_SPIKE * float(size.mean()) if len(size) > 100 else np.log(_JUMP), 1e-9)
    large = np.flatnonzero(size > least)
    told = []
    spikes = [
        int(at) for at in large if at + 1 < len(moves)
        and moves[at] * moves[at + 1] < 0 and size[at + 1] > least and abs(moves[at] + moves[at + 1]) < size[at] / 10
    ]  # fmt: skip
    if spikes:
        at = spikes[0] + 1
        more = f", and so do {len(spikes) - 1:,} others" if len(spikes) > 1 else ""
        told.append(
            f"one bar at {_moment(frame.index[at])} goes from {mid[at - 1]:g} to {mid[at]:g} and back to "
            f"{mid[at + 1]:g}{more}: an error of the feed? left as it is"
        )
    returning = {other for at in spikes for other in (at, at + 1)}
    jumps = [int(at) for at in large if size[at] > np.log(_JUMP) and at not in returning]
    if jumps:
        at = jumps[0] + 1
        more = f", and {len(jumps) - 1:,} such moves later" if len(jumps) > 1 else ""
        told.append(
            f"the price goes from {mid[at - 1]:g} to {mid[at]:g} in one bar at {_moment(frame.index[at])}{more}: "
            "another instrument or unit? left as it is"
        )
    return told


def _moment(moment: pd.Timestamp | None) -> str:
    """A time without the parts that are zero."""
    text = str(moment)[:19] if moment is None or not moment.microsecond else str(moment)[:26]
    return text.removesuffix(":00") if text.count(":") == 2 else text


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} others" if len(names) > _SHOWN else "")
