"""The prices of a job: read from where its settings say, labelled, and described."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ml.data.history import fingerprint, gaps
from ml.data.sources import read_channel, read_kydb
from ml.errors import UserError
from ml.optimal_position import labelled
from ml.settings import Settings


def labelled_prices(
    settings: Settings, channels: Mapping[str, Path], given_up: Callable[[], bool] = lambda: False
) -> pd.DataFrame:
    """The checked history between start_date and end_date, from KYDB or from a channel, with a position in each row.

    Args:
        settings: where the prices are and how they are labelled.
        channels: name to the folder with its files.
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
        )
    elif settings.prices_channel in channels:
        history = read_channel(channels[settings.prices_channel], settings.start_date, settings.end_date)
    else:
        raise UserError(
            f"there are no prices: prices_db is empty and there is no channel "
            f"{settings.prices_channel} (channels: {', '.join(channels) or 'none'}); "
            "set prices_db and prices_key, or add the channel"
        )
    return labelled(history, settings.horizon, settings.spread)


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


def described(history: pd.DataFrame) -> str:
    """A labelled history as a line for the log."""
    return (
        f"prices: {len(history):,} rows from {history.index[0]} to {history.index[-1]}, {gaps(history)}, "
        f"{(history['position'] > 0).mean():.1%} labelled buy"
    )
