from datetime import date

import numpy as np
import pandas as pd
import pytest

from ml.errors import UserError
from ml.optimal_position import OptimalPositionGenerator, decided_bars, labelled, optimal_positions


class Series:
    """What the generator needs of a time series."""

    def __init__(self, frame):
        self.frame = frame

    def curve(self, start, end):
        return self.frame[str(start) : str(end)]


def minutes(mid, **columns):
    index = pd.date_range("2020-01-01", periods=len(mid), freq="min", tz="UTC", name="dt")
    return pd.DataFrame({"mid": np.asarray(mid, float), **columns}, index)


def slow_positions(frame, horizon, spread):
    """The definition, written row by row."""
    position, positions, mids = 0.0, [], frame["mid"].tolist()
    for t in range(len(mids) - horizon):
        future = mids[t + 3 : t + horizon + 1]
        if mids[t] - spread / 2 > max(future):
            position = -1.0
        elif mids[t] + spread / 2 < min(future):
            position = 1.0
        positions.append(position)
    return positions


def test_positions_equal_the_golden_ones(shared):
    history = pd.read_parquet(shared / "data/btcjpy_minutely_bid_ask_2018-01.parquet")
    golden = pd.read_parquet(shared / "golden/optimal_position_btcjpy_2018-01.parquet")
    result = OptimalPositionGenerator(Series(history), date(2018, 1, 1), date(2018, 2, 1)).generate()
    pd.testing.assert_frame_equal(result, golden, check_exact=True)


@pytest.mark.parametrize("horizon", [3, 4, 30])
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_positions_follow_the_definition_row_by_row(horizon, spread):
    frame = minutes(100 + np.random.default_rng(horizon).normal(size=400).cumsum())
    result = optimal_positions(frame, horizon, spread)
    assert result["position"].tolist() == slow_positions(frame, horizon, spread)
    assert set(result["position"]) >= {-1.0, 1.0}


def test_rows_without_a_full_future_are_dropped():
    frame = minutes(np.arange(1, 51))
    assert optimal_positions(frame, 30).index.equals(frame.index[:20])


def test_a_spread_stands_in_for_bid_and_ask():
    rising = minutes(np.arange(100, 150))
    assert (optimal_positions(rising, 10, spread=4)["position"] == 1).all()
    assert (optimal_positions(rising, 10, spread=8)["position"] == 0).all(), "the gain of 3 does not pay for 4"
    result = optimal_positions(rising, 10, spread=4)
    assert (result["ask"] - result["bid"] == 4).all()


def test_a_position_does_not_depend_on_prices_before_it():
    frame = minutes(100 + np.random.default_rng(0).normal(size=300).cumsum())
    later = optimal_positions(frame.iloc[100:], 20)["position"]
    whole = optimal_positions(frame, 20)["position"].loc[later.index]
    assert (later == whole)[later != 0].all()


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="30 rows are too few .* look 30 rows ahead"):
        optimal_positions(minutes(np.arange(1, 31)), 30)


def test_a_history_with_positions_is_not_labelled_again():
    frame = minutes(np.arange(1, 11), position=np.ones(10))
    assert labelled(frame, 300, 0) is frame
    assert "position" in labelled(minutes(np.arange(1, 51)), 30, 0)


def test_a_bar_is_decided_where_its_own_future_says_so():
    mid = 100 + np.random.default_rng(3).normal(size=3000).cumsum()
    frame = optimal_positions(minutes(mid), 30, spread=1.0)
    decided, position = decided_bars(frame), frame["position"].to_numpy()
    changes = np.diff(position, prepend=0) != 0
    assert decided[changes].all() and changes.sum() < decided.sum() < len(frame)
    for row in range(0, len(frame), 97):
        future = mid[row + 3 : row + 31]
        assert decided[row] == (mid[row] - 0.5 > future.max() or mid[row] + 0.5 < future.min())
    assert decided_bars(frame[["mid", "position"]]) is None
