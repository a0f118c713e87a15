"""The prices of a job: read from where its settings say, labelled, and described."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ml.data.columns import Reading
from ml.data.history import fingerprint, gaps
from ml.data.sources import read_channel, read_kydb
from ml.data.understood import History, one_label
from ml.errors import UserError
from ml.log import say
from ml.optimal_position import labelled
from ml.settings import Settings


def labelled_prices(
    settings: Settings, channels: Mapping[str, Path], room: int, given_up: Callable[[], bool] = lambda: False
) -> History:
    """The checked history between start_date and end_date, from KYDB or from a channel, with a position in each row.

    What was understood of it is printed.

    Args:
        settings: where the prices are and how they are labelled.
        channels: name to the folder with its files.
        room: bytes of memory that reading may take.
        given_up: looked at between attempts to reach KYDB: whether to end.

    Raises:
        UserError: there are no prices, they cannot be read, or are no price history.
    """
    if settings.prices_db:
        history = read_kydb(
            settings.prices_db,
            settings.prices_key,
            settings.start_date,
            settings.end_date,
            patience=settings.read_seconds,
            timeout=settings.kydb_timeout,
            given_up=given_up,
            resample=settings.resample,
        )
    elif settings.prices_channel in channels:
        folder = channels[settings.prices_channel]
        history = read_channel(folder, settings.start_date, settings.end_date, Reading.of(settings), room=room)
    else:
        raise UserError(
            f"there are no prices: prices_db is empty and there is no channel "
            f"{settings.prices_channel} (channels: {', '.join(channels) or 'none'}); "
            "set prices_db and prices_key, or add the channel"
        )
    say(f"read: {history.understood}")
    history = history._replace(frame=labelled(history.frame, settings.horizon, settings.spread))
    if problem := one_label(history.frame):
        raise UserError(problem)
    return history


def price_facts(history: pd.DataFrame) -> dict[str, Any]:
    """What job.json keeps of a labelled history: rows, times, gaps, share of buys, hash."""
    return {
        "rows": len(history),
        "first": str(history.index[0]),
        "last": str(history.index[-1]),
        "gaps": gaps(history)._asdict(),
        "buy_share": float((history["position"] > 0).mean()),
        "sha256": fingerprint(history),
    }


def described(history: pd.DataFrame, bars: int) -> str:
    """A labelled history as a line for the log.

    Args:
        history: the rows that have a label.
        bars: how many were read.
    """
    unlabelled = f" (the last {bars - len(history):,} see too little of the future)" if bars > len(history) else ""
    return (
        f"labels: {len(history):,} of {bars:,} bars{unlabelled}, {(history['position'] > 0).mean():.1%} buy; "
        f"{gaps(history)}"
    )
