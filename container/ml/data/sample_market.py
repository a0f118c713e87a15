"""A simulated market, so that everything runs with no data and no account."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

_TICK = 0.5
_VOLATILITY = 6e-4  # standard deviation of a minute's log return, as of a large crypto pair
_REGIME_MINUTES = 900  # a regime's mean length
_DRIFT = 0.08  # of a trending regime, in standard deviations a minute
_VOLATILITY_MEMORY = 0.998  # share of log volatility's deviation that lasts a minute: half-life 6 hours
_DAY = 1440


def sample_market(
    rows: int = 200_000,
    seed: int = 1,
    start: str = "2019-01-01",
    price: float = 10_000.0,
    predictability: float = 1.0,
    shared: np.ndarray | None = None,
) -> pd.DataFrame:
    """Minutely bid, ask and mid of a market that trends up, down or not at all, in regimes it does not announce.

    Log returns are Gaussian with a volatility that clusters (its logarithm is a first-order autoregression)
    and breathes with the time of day. In two regimes of three they also drift, so a window tells something
    about the hours after it. The spread widens with the volatility.

    Args:
        rows: minutes.
        seed: the same seed gives the same market.
        start: its first minute, UTC.
        price: its first price.
        predictability: factor on the drift; 0 makes the price a martingale, which nobody can predict.
        shared: unit noise that other markets move with as well, (rows,); half of this one's variance comes from it.

    Returns:
        frame indexed by `dt` (UTC) with bid, ask, mid in price units, on ticks of 0.5, at least one tick.
    """
    rng = np.random.default_rng(seed)
    minutes = np.arange(rows)
    time_of_day = 1 + 0.3 * np.sin(2 * np.pi * minutes / _DAY)
    scale = _VOLATILITY * np.exp(0.5 * _autoregression(rng.normal(size=rows))) * time_of_day
    regime = np.cumsum(rng.random(rows) < 1 / _REGIME_MINUTES)
    drift = predictability * _DRIFT * rng.integers(-1, 2, regime[-1] + 1)[regime]
    # Half the variance is taken off, so that without drift the price itself, not its logarithm, is a martingale.
    noise = rng.normal(size=rows)
    if shared is not None:
        noise = (noise + shared) * np.sqrt(0.5)
    returns = scale * (drift + noise) - scale**2 / 2
    middle = price * np.exp(np.cumsum(returns))
    half_spread = np.maximum(np.round(0.2 * scale * middle / _TICK), 1) * _TICK / 2
    bid = np.maximum(np.round((middle - half_spread) / _TICK), 1) * _TICK
    ask = bid + 2 * half_spread
    index = pd.date_range(start, periods=rows, freq="min", tz="UTC", unit="ns", name="dt")
    return pd.DataFrame({"bid": bid, "ask": ask, "mid": (bid + ask) / 2}, index)


def sample_universe(instruments: int, rows: int = 200_000, seed: int = 1) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and history of each of several simulated markets, which move together; the last one is noise.

    Args:
        instruments: how many.
        rows: minutes of each.
        seed: the same seed gives the same markets.
    """
    shared = np.random.default_rng([seed, instruments]).normal(size=rows)
    for number in range(1, instruments + 1):
        last = number == instruments
        history = sample_market(
            rows, seed + number, price=10_000.0 * (1 + 0.1 * number), predictability=0.0 if last else 1.0, shared=shared
        )
        yield ("NOISE" if last else f"SAMPLE_{number}"), history


def _autoregression(noise: np.ndarray) -> np.ndarray:
    """A first-order autoregression with unit variance from its first value on, driven by unit noise.

    Overwrites noise[0].
    """
    noise[0] *= np.sqrt((1 - _VOLATILITY_MEMORY) / (1 + _VOLATILITY_MEMORY))
    smoothed = pd.Series(noise).ewm(alpha=1 - _VOLATILITY_MEMORY, adjust=False).mean().to_numpy()
    return smoothed * np.sqrt((1 + _VOLATILITY_MEMORY) / (1 - _VOLATILITY_MEMORY))
