"""The prices of a job: read from where its settings say, labelled, and described."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from ml.bars import in_words
from ml.data.columns import Reading
from ml.data.formats import bounded
from ml.data.history import Gaps, fingerprint, gaps
from ml.data.listing import list_channel
from ml.data.segment_facts import SegmentFacts, segment_facts
from ml.data.understood import History, Understood, one_label
from ml.data.universe import read_curves, read_instruments
from ml.errors import UserError
from ml.log import say
from ml.optimal_position import decided_bars, labelled
from ml.settings import Settings

_NAMED = 10  # instruments in a line
_UNDECIDED = (
    "train_on=decided needs positions that the job makes itself, and these prices bring their own: at which bars those "
    "are decided is not known; use train_on=all, or leave the column position out"
)


@dataclasses.dataclass(frozen=True)
class Prices:
    """The labelled prices of a job, and what is known of them.

    Attributes:
        frame: mid, position, spread and, where it is known, decided (`ml.optimal_position.decided_bars`), indexed by
            time; of several instruments one after the other, with a column symbol. Each column is of the shortest
            type that holds it exactly.
        facts: what job.json keeps: rows, times, gaps, segments, share of buys, hash.
        lines: the same for the log.
    """

    frame: pd.DataFrame
    facts: dict[str, Any]
    lines: list[str]


def labelled_prices(
    settings: Settings, channels: Mapping[str, Path], room: int, given_up: Callable[[], bool] = lambda: False
) -> Prices:
    """The checked prices between start_date and end_date, from KYDB or from a channel, with a position in each row.

    What was understood of it is printed.

    Args:
        settings: where the prices are and how they are labelled.
        channels: name to the folder with its files.
        room: bytes of memory that reading may take.
        room: bytes of memory that reading may take.
        given_up: looked at between attempts to reach KYDB: whether to end.

    Raises:
        UserError: there are no prices, they cannot be read, or are no price history.
    """
    return together(_histories(settings, channels, room, given_up), settings)


def _histories(
    settings: Settings, channels: Mapping[str, Path], room: int, given_up: Callable[[], bool]
) -> Iterator[tuple[str, History]]:
    """Each instrument's name and history; the name of a single one is empty."""
    dates = settings.start_date, settings.end_date
    if settings.prices_db:
        return read_curves(
            settings.prices_db,
            settings.prices_key,
            *dates,
            patience=settings.read_seconds,
            timeout=settings.kydb_timeout,
            given_up=given_up,
            resample=settings.resample,
        )
    if settings.prices_channel in channels:
        folder = channels[settings.prices_channel]
        source = f"channel {folder.name}"
        return read_instruments(
            list_channel(folder, say), *dates, Reading.of(settings), source=source, room=room, say=say
        )
    raise UserError(
        f"there are no prices: prices_db is empty and there is no channel "
        f"{settings.prices_channel} (channels: {', '.join(channels) or 'none'}); "
        "set prices_db and prices_key, or add the channel"
    )


@dataclasses.dataclass
class _Known:
    """What is known of one instrument once it is labelled."""

    name: str
    bars: int  # read
    rows: int  # labelled
    buys: int
    gaps: Gaps
    digest: str
    source: Understood


def together(histories: Iterable[tuple[str, History]], settings: Settings, tell: Callable[[str], None] = say) -> Prices:
    """Histories as the prices of a job: each labelled on its own, one after the other.

    A history is let go of as soon as the next one is asked for, so that labelling takes the memory of one.

    Args:
        histories: each instrument's name and checked history.
        settings: lookback, horizon, spread, max_gap.
        tell: is told what was understood of the histories, a line.

    Raises:
        UserError: every history that cannot be labelled, by name; or all rows have the same label.
    """
    columns: dict[str, list[np.ndarray]] = {}
    known, problems, facts = list[_Known](), list[str](), SegmentFacts(settings.max_gap)
    for name, (history, understood) in histories:
        if not name:
            tell(f"read: {understood}")
        try:
            with_labels = labelled(history, settings.horizon, settings.spread, settings.max_gap)
        except UserError as error:
            problems.append(f"{name}: {error}" if name else str(error))
            continue
        decided = decided_bars(with_labels)
        if decided is None and settings.train_on == "decided":
            problems.append(f"{name}: {_UNDECIDED}" if name else _UNDECIDED)
            continue
        facts.add(segment_facts(history, settings.rows_lookback, settings.horizon, settings.max_gap, name))
        buys = int((with_labels["position"] > 0).sum())
        known.append(
            _Known(
                name,
                len(history),
                len(with_labels),
                buys,
                gaps(with_labels),
                fingerprint(with_labels),
                understood,
            )
        )
        for column, values in _slim(with_labels, settings.spread).items():
            columns.setdefault(column, []).append(values)
        if decided is not None:
            columns.setdefault("decided", []).append(decided)
        del history, with_labels, decided
    if problems:
        raise UserError(bounded(problems))
    if len(columns.get("decided", ())) < len(known):  # of some instruments it is not known
        columns.pop("decided", None)
    frame = _frame(columns, [each.name for each in known])
    buys = sum(each.buys for each in known)
    if problem := one_label(len(frame), buys):
        raise UserError(problem)
    of_all = {
        "rows": len(frame),
        "first": str(frame.index.min()),
        "last": str(frame.index.max()),
        "buy_share": buys / len(frame),
        "segments": facts.as_json(),
    }
    if len(known) == 1:
        (one,) = known
        told = {"gaps": one.gaps._asdict(), "sha256": one.digest, "source": one.source.as_json()}
    else:
        line = _described_sources(known)
        tell(f"read: {line}")
        digests = repr([(each.name, each.digest) for each in known]).encode()
        told = {
            "gaps": _gaps_of_all(known),
            "sha256": hashlib.sha256(digests).hexdigest(),
            "instruments": {each.name: {"rows": each.rows, "sha256": each.digest} for each in known},
            "source": {"line": line, "instruments": {each.name: each.source.as_json() for each in known}},
        }
    return Prices(frame, of_all | told, [_described_labels(known), *facts.lines()])


def _described_sources(known: Sequence[_Known]) -> str:
    """The instruments and their bars in a line."""
    names = [f"{each.name} ({each.bars:,} bars)" for each in known[:_NAMED]]
    more = f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else ""
    bars = sorted({in_words(each.source.bar) for each in known})
    mixed = f"; THEIR BARS DIFFER in length: {', '.join(bars)}" if len(bars) > 1 else f", bars of {bars[0]}"
    return f"{len(known):,} instruments: {', '.join(names)}{more}{mixed}"


def _described_labels(known: Sequence[_Known]) -> str:
    """The line that says how many bars have a label."""
    rows, bars, buys = (sum(getattr(each, field) for each in known) for field in ("rows", "bars", "buys"))
    few = "see too little of the future"
    last = f"the last {bars - rows:,} {few}" if len(known) == 1 else f"{bars - rows:,} {few}"
    of_instruments = f" of {len(known):,} instruments" if len(known) > 1 else ""
    missing = str(known[0].gaps) if len(known) == 1 else f"{sum(each.gaps.count for each in known):,} gaps"
    return (
        f"labels: {rows:,} of {bars:,} bars{of_instruments}{f' ({last})' if bars > rows else ''}, "
        f"{buys / rows:.1%} buy; {missing}"
    )


def _gaps_of_all(known: Sequence[_Known]) -> dict[str, Any]:
    """The gaps of several instruments together, the longest one's place included."""
    longest = max((each.gaps for each in known), key=lambda gaps: gaps.longest_minutes)
    return longest._asdict() | {
        name: sum(getattr(each.gaps, name) for each in known) for name in ("count", "minutes", "bars")
    }


def _slim(history: pd.DataFrame, spread: float) -> dict[str, np.ndarray]:
    """What a job needs of a labelled history, each column of the shortest type that holds it exactly."""
    spreads = (history["ask"] - history["bid"]).to_numpy() if "bid" in history else np.full(len(history), spread)
    return {
        "dt": pd.DatetimeIndex(history.index).as_unit("ns").asi8,
        "mid": _shortest(history["mid"].to_numpy()),
        "position": history["position"].to_numpy().astype(np.int8),
        "spread": _shortest(spreads),
    }


def _shortest(values: np.ndarray) -> np.ndarray:
    """The values as float32 where that changes none."""
    short = values.astype(np.float32)
    return short if np.array_equal(short, values) else np.ascontiguousarray(values)


def _frame(columns: dict[str, list[np.ndarray]], names: list[str]) -> pd.DataFrame:
    """Columns of several instruments as one frame; the parts are emptied on the way, which halves the memory."""
    counts = [len(part) for part in columns["mid"]]
    whole = {}
    for name, parts in columns.items():
        whole[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        parts.clear()
    if len(names) > 1:
        codes = np.repeat(np.arange(len(names), dtype=np.int8 if len(names) < 128 else np.int16), counts)
        whole["symbol"] = pd.Categorical.from_codes(cast(Any, codes), cast(Any, names))
    index = pd.DatetimeIndex(whole.pop("dt"), tz="UTC", name="dt", copy=False)
    return pd.DataFrame(whole, index, copy=False)
