"""What comes from outside: every surface of fuzz.py with a small budget, and prices that are odd but right."""

import numpy as np
import pandas as pd
import pytest

import fuzz
from ml.data.history import gaps
from ml.data.sources import read_channel
from ml.errors import UserError
from ml.train_sequence import TrainSequence

DAY = 1440


@pytest.mark.parametrize("surface", fuzz.SURFACES)
def test_broken_input_is_told_or_understood(surface):
    assert fuzz.run(surface, examples=150, seed=1) >= 150


def test_ten_million_rows():
    assert "9,998,561 windows" in fuzz.ten_million_rows()


def channel_of(folder, mid, minutes=None):
    index = pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(
        np.arange(len(mid)) if minutes is None else minutes, unit="min"
    )
    pd.DataFrame({"mid": mid, "position": np.sign(np.sin(np.arange(len(mid))))}, index.rename("dt")).to_parquet(
        folder / "prices.parquet"
    )
    return read_channel(folder).frame


def windows_of(history, lookback):
    """The windows, and what they must be, one price at a time in Python's own numbers."""
    prices = history["mid"].tolist()
    expected = []
    for first in range(len(prices) - lookback + 1):
        window = prices[first : first + lookback]
        low, height = min(window), max(window) - min(window)
        expected.append([(price - low) / height if height else 0 for price in window])
    sequence = TrainSequence(history, lookback, batch_size=64, enable_shuffle=False)
    return np.concatenate([sequence[batch][0] for batch in range(len(sequence))]), np.array(expected)


ODD_PRICES = {
    "constant for three days, but for a tick": np.r_[np.full(3 * DAY, 8123.5), 8124],
    "constant, then moving": np.r_[np.full(DAY, 8123.5), 8123.5 + np.arange(200) * 0.5],
    "a hundredfold jump": np.r_[100 + np.arange(300) * 0.1, 10_000 + np.arange(300) * 0.1],
    "a hundredfold spike of a minute": np.r_[np.full(300, 100.5), 10_050, np.full(300, 100.5)],
    "ten million and a tick": 10_000_000 + 0.5 * (np.arange(600) % 3),
    "the smallest prices and moves": np.r_[np.full(100, 1e-15), np.full(100, 1e-15 + 2e-31)],
    "from the smallest to the largest": np.r_[np.full(100, 1e-15), np.full(100, 1e15)],
}


@pytest.mark.parametrize("prices", ODD_PRICES)
def test_odd_prices_give_the_windows_that_arithmetic_gives(tmp_path, prices):
    history = channel_of(tmp_path, ODD_PRICES[prices])
    windows, expected = windows_of(history, 30)
    assert windows.min() >= 0 and windows.max() <= 1
    np.testing.assert_allclose(windows, expected, atol=1e-6)


@pytest.mark.parametrize("price", [1e-300, 1e300, 9.9e-16])
def test_prices_whose_moves_a_float32_cannot_hold_are_refused(tmp_path, price):
    with pytest.raises(UserError, match="mid is not within 1e-15 to 1e\\+15 in 2 of 100 rows.* another unit"):
        channel_of(tmp_path, np.r_[np.full(98, 100.0), price, price])


def test_a_day_that_is_missing_is_counted_and_its_neighbours_are_right(tmp_path):
    minutes = np.r_[np.arange(DAY), np.arange(2 * DAY, 3 * DAY)]
    history = channel_of(tmp_path, 100 + np.arange(2.0 * DAY) % 7, minutes)
    assert gaps(history)[:3] == (1, DAY, DAY)
    windows, expected = windows_of(history, 60)
    np.testing.assert_allclose(windows, expected, atol=1e-6)
