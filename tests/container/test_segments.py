"""Windows and labels over gaps and instruments, against the definition written row by row."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import UserError
from ml.hyperparameters import parse_gap
from ml.optimal_position import optimal_positions
from ml.segments import segment_bounds
from ml.train_sequence import TrainSequence
from universes import together, universes


@settings(max_examples=60, deadline=None)
@given(universes(), st.integers(2, 20), st.sampled_from([1, 5, 30, 1000]), st.booleans(), st.integers(0, 3))
def test_windows_are_those_within_one_segment_each_once_an_epoch(frame, lookback, gap, skip_flat, epoch):
    frame = frame.assign(position=np.resize([-1.0, 0.0, 1.0], len(frame)))
    prices = frame["mid"].tolist()
    inside = [row for row in range(len(frame) - lookback + 1) if together(frame, row, row + lookback - 1, gap)]
    flat = [row for row in inside if len(set(prices[row : row + lookback])) == 1]
    expected = [row for row in inside if row not in flat] if skip_flat else inside
    if not expected:
        with pytest.raises(UserError, match="smaller lookback|larger lookback"):
            TrainSequence(frame, lookback, max_gap=f"{gap}min", skip_flat=skip_flat)
        return
    sequence = TrainSequence(frame, lookback, max_gap=f"{gap}min", skip_flat=skip_flat)
    assert sequence.starts.tolist() == expected and sequence.num_windows == len(expected)
    assert sequence.flat_windows == len(flat)
    assert sorted(sequence.order(epoch).tolist()) == expected
    for start, window in zip(expected, sequence.windows(sequence.starts), strict=True):
        cut = np.array(prices[start : start + lookback])
        height = cut.max() - cut.min()
        np.testing.assert_allclose(window, (cut - cut.min()) / height if height else 0 * cut, atol=1e-6)
        assert sequence.labels[start] == (frame["position"].iloc[start + lookback - 1] > 0)


@settings(max_examples=60, deadline=None)
@given(universes(), st.integers(3, 15), st.sampled_from([1, 5, 30, 1000]), st.sampled_from([0.0, 1.0]))
def test_no_label_looks_beyond_its_segment(frame, horizon, gap, spread):
    mids, position, expected = frame["mid"].tolist(), 0.0, []
    for row in range(len(frame)):
        if row and not together(frame, row - 1, row, gap):
            position = 0.0
        if row + horizon >= len(frame) or not together(frame, row, row + horizon, gap):
            continue
        future = mids[row + 3 : row + horizon + 1]
        position = (
            -1.0 if mids[row] - spread / 2 > max(future) else 1.0 if mids[row] + spread / 2 < min(future) else position
        )
        expected.append((frame.index[row], position))
    if not expected:
        with pytest.raises(UserError, match="smaller horizon"):
            optimal_positions(frame, horizon, spread, f"{gap}min")
        return
    found = optimal_positions(frame, horizon, spread, f"{gap}min")
    assert list(zip(found.index, found["position"], strict=True)) == expected


def test_two_instruments_have_the_windows_of_both():
    rng = np.random.default_rng(0)
    index = pd.date_range("2020-01-01", periods=500, freq="min", tz="UTC")
    one, two = (pd.DataFrame({"mid": 50.0 + rng.normal(size=500).cumsum()}, index) for _ in range(2))
    both = optimal_positions(pd.concat([one.assign(symbol="one"), two.assign(symbol="two")]), 30)
    alone = [TrainSequence(optimal_positions(frame, 30), 20) for frame in (one, two)]
    sequence = TrainSequence(both, 20)
    windows = np.concatenate([each.windows(each.starts) for each in alone])
    np.testing.assert_array_equal(sequence.windows(sequence.starts), windows)
    labels = np.concatenate([each.labels[each.starts] for each in alone])
    np.testing.assert_array_equal(sequence.labels[sequence.starts], labels)


def test_a_frame_without_times_is_one_segment():
    frame = pd.DataFrame({"mid": np.arange(10.0), "position": 1.0})
    assert segment_bounds(frame, "1s").tolist() == [0, 10]


@pytest.mark.parametrize(
    ("text", "gap"), [("90s", "90s"), ("30min", "30min"), ("1.5h", "90min"), (" 4D", "4D"), ("off", None)]
)
def test_gaps_are_written_as_people_write_them(text, gap):
    assert parse_gap(text) == (None if gap is None else pd.Timedelta(gap))


@pytest.mark.parametrize("text", ["", "4", "0d", "-1d", "4 weeks", "d", "999999999999d"])
def test_other_gaps_are_refused(text):
    with pytest.raises(ValueError, match="such as 90s"):
        parse_gap(text)
