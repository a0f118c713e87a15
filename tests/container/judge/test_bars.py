import numpy as np
import pandas as pd
import pytest

from ml.bars import bar_length
from ml.judge.bars import bars_a_day, bars_of, counted, missing_bars, moment_format


@pytest.mark.parametrize(
    ("bar", "name", "a_day", "moment"),
    [
        ("250ms", "bars of 250 milliseconds", 345_600, "2024-02-03 04:05:06"),
        ("1s", "seconds", 86_400, "2024-02-03 04:05:06"),
        ("90s", "bars of 90 seconds", 960, "2024-02-03 04:05:06"),
        ("1min", "minutes", 1440, "2024-02-03 04:05"),
        ("5min", "bars of 5 minutes", 288, "2024-02-03 04:05"),
        ("1h", "hours", 24, "2024-02-03 04:05"),
        ("4h", "bars of 4 hours", 6, "2024-02-03 04:05"),
        ("1D", "days", 1, "2024-02-03"),
        ("7D", "bars of 7 days", 1, "2024-02-03"),
    ],
)
def test_bars_are_called_by_their_length(bar, name, a_day, moment):
    bar = pd.Timedelta(bar)
    assert (bars_of(bar), bars_a_day(bar)) == (name, a_day)
    assert pd.Timestamp("2024-02-03 04:05:06.5").strftime(moment_format(bar)) == moment
    assert counted(1234, bar) == f"1,234 {name}"


@pytest.mark.parametrize("bar", ["1s", "5min", "1D"])
def test_the_usual_step_is_the_bar_whatever_is_missing(bar):
    index = pd.date_range("2024-01-01", periods=100, freq=bar, tz="UTC")
    kept = index.delete([*range(10, 15), 50, *range(70, 72)])
    assert bar_length(kept) == pd.Timedelta(bar) == bar_length(kept.as_unit("us"))
    assert missing_bars([index], pd.Timedelta(bar)) == "none"
    assert missing_bars([kept], pd.Timedelta(bar)).startswith(
        f"{counted(8, pd.Timedelta(bar))} in 3 gaps, the longest 5 after 2024-01-"
    )


def test_minutes_with_few_trades_are_minutes_for_the_judge_as_they_are_for_the_reader():
    index = pd.date_range("2024-01-01", periods=3000, freq="min", tz="UTC")[np.random.default_rng(0).random(3000) < 0.3]
    assert bar_length(index) == pd.Timedelta(minutes=1)
