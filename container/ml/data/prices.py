"""The prices of a job: read from where its settings say, labelled, and described."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml.data.history import fingerprint, gaps
from ml.data.segment_facts import SegmentFacts, segment_facts
from ml.data.sources import read_channel, read_kydb
from ml.errors import UserError
from ml.optimal_position import labelled
from ml.settings import Settings


@dataclasses.dataclass(frozen=True)
class Prices:
    """The labelled prices of a job, and what is known of them.

    Attributes:
        frame: mid, position and, where it is known, spread, indexed by time; of several instruments one after the
            other, with a column symbol. Each column is of the shortest type that holds it exactly.
        facts: what job.json keeps: rows, times, gaps, segments, share of buys, hash.
        lines: the same for the log.
    """

    frame: pd.DataFrame
    facts: dict[str, Any]
    lines: list[str]


def labelled_prices(
    settings: Settings, channels: Mapping[str, Path], given_up: Callable[[], bool] = lambda: False
) -> Prices:
    """The checked prices between start_date and end_date, from KYDB or from a channel, with a position in each row.

    Args:
        settings: where the prices are and how they are labelled.
        channels: name to the folder with its files.
        given_up: looked at between attempts to reach KYDB: whether to end.

    Raises:
        UserError: there are no prices, they cannot be read, or are no price history.
    """
    return together(_histories(settings, channels, given_up), settings)


def _histories(
    settings: Settings, channels: Mapping[str, Path], given_up: Callable[[], bool]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each instrument's name and history; the name of a single one is empty."""
    if settings.prices_db:
        yield (
            "",
            read_kydb(
                settings.prices_db,
                settings.prices_key,
                settings.start_date,
                settings.end_date,
                patience=settings.read_seconds,
                timeout=settings.kydb_timeout,
                given_up=given_up,
            ),
        )
    elif settings.prices_channel in channels:
        yield "", read_channel(channels[settings.prices_channel], settings.start_date, settings.end_date)
    else:
        raise UserError(
            f"there are no prices: prices_db is empty and there is no channel "
            f"{settings.prices_channel} (channels: {', '.join(channels) or 'none'}); "
            "set prices_db and prices_key, or add the channel"
        )


def together(histories: Iterator[tuple[str, pd.DataFrame]], settings: Settings) -> Prices:
    """Histories as the prices of a job: each labelled on its own, one after the other.

    A history is let go of as soon as the next one is asked for, so that reading takes the memory of one.

    Args:
        histories: each instrument's name and checked history.
        settings: lookback, horizon, spread, max_gap.

    Raises:
        UserError: every history that cannot be labelled, by name.
    """
    columns: dict[str, list[np.ndarray]] = {}
    digests, names, problems = [], [], []
    facts, buys, gap_facts = SegmentFacts(settings.max_gap), 0, []
    for name, history in histories:
        try:
            with_labels = labelled(history, settings.horizon, settings.spread, settings.max_gap)
        except UserError as error:
            problems.append(f"{name}: {error}" if name else str(error))
            continue
        facts.add(segment_facts(history, settings.lookback, settings.horizon, settings.max_gap, name))
        gap_facts.append(gaps(with_labels))
        digests.append(fingerprint(with_labels))
        buys += int((with_labels["position"] > 0).sum())
        names.append(name)
        for column, values in _slim(with_labels, settings.spread).items():
            columns.setdefault(column, []).append(values)
    if problems:
        raise UserError("; ".join(problems))
    frame = _frame(columns, names)
    times = frame.index
    digest = digests[0] if len(names) == 1 else hashlib.sha256(repr([*zip(names, digests, strict=True)]).encode())
    known: dict[str, Any] = {
        "rows": len(frame),
        "first": str(times.min()),
        "last": str(times.max()),
        "gaps": gap_facts[0]._asdict(),
        "segments": facts.as_json(),
        "buy_share": buys / len(frame),
        "sha256": digest if isinstance(digest, str) else digest.hexdigest(),
    }
    of_instruments, missing = "", str(gap_facts[0])
    if len(names) > 1:
        del known["gaps"]
        known["instruments"] = names
        of_instruments, missing = f" of {len(names):,} instruments", f"{sum(each.count for each in gap_facts):,} gaps"
    line = (
        f"prices: {len(frame):,} rows{of_instruments} from {known['first']} to {known['last']}, {missing}, "
        f"{known['buy_share']:.1%} labelled buy"
    )
    return Prices(frame, known, [line, *facts.lines()])


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
        whole["symbol"] = pd.Categorical.from_codes(codes, names)
    index = pd.DatetimeIndex(whole.pop("dt"), tz="UTC", name="dt", copy=False)
    return pd.DataFrame(whole, index, copy=False)
