"""What is told of gaps and still prices, on histories whose facts are known."""

import numpy as np
import pandas as pd

from ml.data.segment_facts import segment_facts
from ml.optimal_position import labelled
from ml.train_sequence import TrainSequence


def history(*, hole="10D", still=0):
    """Two runs of 500 minutes with a hole between them, an hour missing in the second."""
    times = pd.date_range("2020-01-01", periods=500, freq="min", tz="UTC")
    later = times + pd.Timedelta("500min") + pd.Timedelta(hole)
    mid = 100 + np.random.default_rng(1).integers(1, 5, 1000).cumsum().astype(float)
    mid[:still] = 50
    return pd.DataFrame({"mid": mid}, times.append(later[:250]).append(later[250:] + pd.Timedelta("1h")))


def test_windows_lost_and_across_are_those_of_the_sequence():
    prices = history(still=300)
    facts = segment_facts(prices, 20, 30, "4d")
    sequence = TrainSequence(labelled(prices, 30, 0, "4d"), 20, max_gap="4d")
    assert facts.count == 2 and facts.windows == sequence.num_windows == 2 * (500 - 30 - 19)
    assert facts.windows_flat == sequence.flat_windows == 281
    whole = segment_facts(prices, 20, 30, "off")
    assert facts.windows + facts.windows_lost == whole.windows and whole.windows_lost == 0
    assert facts.windows_across == 19 and facts.labels_across == 30  # the hour
    assert facts.labels == 940 and facts.longest_look == 30 + 60
    assert whole.longest_look == 30 + 10 * 1440
    assert facts.longest_filled[:2] == (300, "2020-01-01 00:00:00+00:00") and facts.filled == 1


def test_a_users_own_positions_look_ahead_nobody_knows_how_far():
    facts = segment_facts(history().assign(position=1.0), 20, 30, "4d")
    assert facts.windows == 2 * 481 and facts.as_json()["longest_look"] is None
    assert "label" not in " ".join(facts.lines())


def test_the_lines_say_what_was_counted():
    facts = segment_facts(history(still=300), 20, 30, "4d")
    facts.add(segment_facts(history(), 20, 30, "4d", "OTHER"))
    assert facts.lines() == [
        "segments: 4 with max_gap 4d, 98 windows lost to cuts",
        "2.1% of the windows and 3.2% of the labels reach across more than 30 minutes without a bar; "
        "a label looks ahead 1.5 hours at most",
        "15.6% of the windows are flat: left out of training and scores",
        "filled: the price is the same from 2020-01-01 00:00:00+00:00 to 2020-01-01 04:59:00+00:00 (300 bars); "
        "1 such stretch of hours, 300 bars in all, as filling a history forward leaves them",
    ]


def test_bars_longer_than_half_an_hour_reach_across_what_is_missing():
    times = pd.date_range("2020-01-01", periods=100, freq="h", tz="UTC").delete(50)
    facts = segment_facts(pd.DataFrame({"mid": np.arange(1.0, 100)}, times), 10, 5, "4d")
    assert facts.across == 60 and facts.windows_across == 9
