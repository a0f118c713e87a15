import hashlib

import keras
import numpy as np
import pandas as pd
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from ml.errors import UserError
from ml.train_sequence import TrainSequence


def frame_of(prices, positions=None):
    positions = np.resize([-1, 0, 1], len(prices)) if positions is None else positions
    return pd.DataFrame({"mid": np.asarray(prices, float), "position": np.asarray(positions, float)})


def random_walk(rows, seed=0, start=1000.0):
    return start + np.random.default_rng(seed).normal(size=rows).cumsum()


def true_windows(prices, starts, lookback):
    windows = np.stack([np.asarray(prices, np.float64)[start : start + lookback] for start in starts])
    low, high = windows.min(axis=1, keepdims=True), windows.max(axis=1, keepdims=True)
    return np.divide(windows - low, high - low, out=np.zeros_like(windows), where=high > low)


@pytest.mark.parametrize("lookback", [60, 1440])
def test_windows_and_labels_equal_the_golden_ones(shared, lookback):
    history = pd.read_parquet(shared / "golden/optimal_position_btcjpy_2018-01.parquet")
    golden = np.load(shared / f"golden/train_sequence_lookback{lookback}_btcjpy_2018-01.npz")
    sequence = TrainSequence(history.reset_index()[["mid", "position"]], lookback)
    np.testing.assert_allclose(sequence.windows(golden["start"]), golden["x"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(sequence.labels[golden["start"]], golden["y"])


def test_a_batch_has_the_promised_shapes_and_types():
    windows, labels = TrainSequence(frame_of(random_walk(500)), 60, 32)[0]
    assert windows.shape == (32, 60) and windows.dtype == np.float32
    assert labels.shape == (32,) and set(labels) <= {0, 1}
    assert windows.min() == 0 and windows.max() == 1


def test_every_window_is_used_once_an_epoch_the_last_partial_batch_included():
    prices = random_walk(257)
    sequence = TrainSequence(frame_of(prices), 10, 32)
    assert len(sequence) == 8
    batches = [sequence[i][0] for i in range(len(sequence))]
    assert [len(batch) for batch in batches] == [32] * 7 + [24]
    expected = true_windows(prices, range(248), 10)
    drawn, wanted = np.concatenate(batches), expected.astype(np.float32)
    np.testing.assert_allclose(drawn[np.lexsort(drawn.T)], wanted[np.lexsort(wanted.T)], atol=1e-6)


def test_without_shuffle_windows_come_in_the_order_of_time():
    prices = random_walk(100)
    sequence = TrainSequence(frame_of(prices), 10, 91, enable_shuffle=False)
    np.testing.assert_allclose(sequence[0][0], true_windows(prices, range(91), 10), atol=1e-6)
    sequence.on_epoch_end()
    np.testing.assert_allclose(sequence[0][0], true_windows(prices, range(91), 10), atol=1e-6)


def test_the_order_changes_each_epoch_and_follows_from_the_seed():
    def orders(seed):
        sequence = TrainSequence(frame_of(random_walk(200)), 10, seed=seed)
        first = sequence[0][0].copy()
        sequence.on_epoch_end()
        return first, sequence[0][0]

    one, two = orders(3)
    again_one, again_two = orders(3)
    assert not np.array_equal(one, two)
    assert np.array_equal(one, again_one) and np.array_equal(two, again_two)
    assert not np.array_equal(one, orders(4)[0])


@pytest.mark.parametrize(
    "prices",
    [
        10_000_000 + np.random.default_rng(1).integers(0, 51, 3000),  # moves by 50 in a window
        1e-8 * (1 + 1e-6 * np.random.default_rng(2).random(3000)),  # a coin of tiny price
        np.r_[random_walk(1500), 100 * random_walk(1500, seed=5)],  # a 100-fold jump
    ],
    ids=["ten-million", "tiny", "jump"],
)
def test_scaling_keeps_six_digits_of_the_float64_truth(prices):
    sequence = TrainSequence(frame_of(prices), 240, enable_shuffle=False)
    starts = np.arange(sequence.num_windows)
    windows = sequence.windows(starts)
    np.testing.assert_allclose(windows, true_windows(prices, starts, 240), rtol=0, atol=1e-6)
    assert windows.min() >= 0 and windows.max() <= 1


@pytest.mark.parametrize(("tick", "kept"), [(0.5, np.float32), (0.01, np.float64)])
def test_prices_are_kept_in_the_shortest_type_that_changes_no_window(tick, kept):
    prices = np.round(random_walk(3000) / tick) * tick
    sequence = TrainSequence(frame_of(prices), 240, enable_shuffle=False)
    assert sequence.prices.dtype == sequence.low.dtype == kept
    windows = sliding_window_view(prices, 240)
    low = windows.min(axis=1, keepdims=True)
    height = (windows.max(axis=1, keepdims=True) - low).astype(np.float32)
    expected = (windows - low).astype(np.float32) / height  # differences in float64
    np.testing.assert_array_equal(sequence.windows(np.arange(sequence.num_windows)), expected)


def test_a_flat_window_is_all_zeros():
    prices = np.r_[random_walk(50), np.full(100, 1000.5), random_walk(50)]
    sequence = TrainSequence(frame_of(prices), 20, enable_shuffle=False)
    flat = sequence.windows(np.arange(50, 130))
    assert not flat.any()
    assert np.isfinite(sequence.windows(np.arange(sequence.num_windows))).all()


def test_the_label_is_the_position_of_the_last_row_above_zero():
    positions = [0, 1, -1, 0, 1, 1]
    sequence = TrainSequence(frame_of(random_walk(6), positions), 3, enable_shuffle=False)
    assert sequence[0][1].tolist() == [0, 0, 1, 1]


def test_memory_is_that_of_the_series_whatever_the_lookback():
    rows = 50_000

    def held(lookback):
        sequence = TrainSequence(frame_of(random_walk(rows)), lookback)
        return sum(value.nbytes for value in vars(sequence).values() if isinstance(value, np.ndarray))

    assert held(5000) <= held(10) <= rows * 8 * 4.5


@pytest.mark.parametrize(
    ("data", "lookback", "message"),
    [
        (pd.DataFrame({"mid": [1.0, 2.0]}), 2, "position missing; received mid"),
        (frame_of([1, 2, 3]), 4, "3 rows are fewer than the 4 of one window"),
        (frame_of([1, np.nan, 3]), 2, "NaN"),
        (frame_of([1, np.inf, 3]), 2, "infinity"),
        (frame_of([1, 2, 3]), 0, "lookback_period must be at least 1, received 0"),
    ],
)
def test_bad_data_is_refused_with_a_reason(data, lookback, message):
    with pytest.raises(UserError, match=message):
        TrainSequence(data, lookback)


def test_a_batch_beyond_the_epoch_is_an_index_error():
    sequence = TrainSequence(frame_of(random_walk(100)), 10)
    with pytest.raises(IndexError):
        sequence[len(sequence)]
    np.testing.assert_array_equal(sequence[-1][1], sequence[len(sequence) - 1][1])


class Recorder(TrainSequence):
    """Adds to each batch the digest of its windows as a feature, to be read back from the trainer."""

    def __getitem__(self, index):
        windows, labels = super().__getitem__(index)
        digests = [int(hashlib.sha256(window.tobytes()).hexdigest()[:6], 16) for window in windows]
        return np.array(digests, np.float32)[:, None], labels


class Total(keras.Model):
    """Sums what it is fed, so that a missing or doubled window shows."""

    def __init__(self):
        super().__init__()
        self.total = self.add_weight(shape=(), initializer="zeros", trainable=False, dtype="float64")

    def call(self, digests):
        self.total.assign_add(keras.ops.sum(keras.ops.cast(digests, "float64")))
        return digests


@pytest.mark.parametrize(
    "workers", [{"workers": 1}, {"workers": 3}, {"workers": 2, "use_multiprocessing": True}], ids=str
)
@pytest.mark.slow
def test_keras_workers_get_every_window_once_an_epoch(workers):
    frame = frame_of(random_walk(300))
    plain = Recorder(frame, 20, 32)
    expected = sum(float(plain[i][0].sum(dtype=np.float64)) for i in range(len(plain)))
    model = Total()
    model.compile(loss="mse")
    model.fit(Recorder(frame, 20, 32, **workers), epochs=3, verbose=0)
    assert float(model.total.numpy()) == 3 * expected


def test_sequences_of_two_lookbacks_can_be_of_the_same_rows_in_the_same_order():
    prices = random_walk(300)
    prices[100:130] = 1000  # windows of 5 are flat there, and so are a few of 20
    frame = frame_of(prices)
    minutes = pd.date_range("2020-01-01", periods=300, freq="min")
    frame.index = minutes[:200].append(minutes[200:] + pd.Timedelta(days=10))
    options = {"batch_size": 32, "seed": 3, "skip_flat": True}
    long, short = TrainSequence(frame, 20, **options), TrainSequence(frame, 5, longest_lookback=20, **options)
    for epoch in (0, 1):
        np.testing.assert_array_equal(long.order(epoch) + 19, short.order(epoch) + 4)
    np.testing.assert_allclose(short.windows(short.starts), true_windows(prices, short.starts, 5), atol=1e-6)
    np.testing.assert_array_equal(long.labels[long.starts], short.labels[short.starts])
    assert long.num_windows < TrainSequence(frame, 5, **options).num_windows
    same = TrainSequence(frame, 5, longest_lookback=5, **options)
    np.testing.assert_array_equal(same.starts, TrainSequence(frame, 5, **options).starts)
