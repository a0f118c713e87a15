"""The windows: the last `lookback` prices before each minute, scaled to 0..1, cut only when asked for.

What a window needs beyond its prices is its lowest price and its height. Both are known for every
window of a series from one pass over it (O(rows), whatever the lookback), so cutting a window is one
subtraction and one division a price, in NumPy for `seq[i]` and on the device in training alike.
"""

import keras
import numpy as np
import pandas as pd

from ml.errors import UserError

_WINDOWS_AT_ONCE = 256  # 256 windows of 1440 float64 prices, 3 MB, stay in a core's cache


def normalised(windows, low, height, to_float32):
    """Windows scaled to 0..1; the definition that `seq[i]`, training and the served model share.

    The difference is taken before anything is rounded, so that a price of 10,000,000 that moves by 50 keeps
    its digits. A division, not a product with 1 / height, makes the highest price 1 exactly.

    Args:
        windows: prices, (batch, lookback), of a type that holds them exactly.
        low: the lowest price of each, of the same type, (batch, 1).
        height: highest minus lowest price, float32, (batch, 1); 1 where the window is flat, which makes
            a flat window all zeros.
        to_float32: the cast of the array library in use.

    Returns:
        float32, (batch, lookback), in [0, 1].
    """
    return to_float32(windows - low) / height


def window_scales(prices: np.ndarray, lookback: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest price and height of every window of a series.

    Args:
        prices: float64, (rows,).
        lookback: prices in a window.

    Returns:
        low, float64, and height, float32, both (rows - lookback + 1,); height is 1 where a window is flat.
    """
    rolling = pd.Series(prices).rolling(lookback)
    low = rolling.min().to_numpy()[lookback - 1 :]
    height = (rolling.max().to_numpy()[lookback - 1 :] - low).astype(np.float32)
    height[height == 0] = 1
    return low, height


class TrainSequence(keras.utils.PyDataset):
    """Batches of normalised windows of a price history and their labels, shuffled anew each epoch.

    Window i covers rows [i, i + lookback_period) and its label is the position of its last row: 1 (buy)
    where position > 0, else 0 (sell). Every window is in exactly one batch of an epoch; the last batch
    may be smaller. Memory is that of the price series, whatever the lookback.

    Example:
        >>> sequence = TrainSequence(frame[["mid", "position"]], lookback_period=60, batch_size=32)
        >>> windows, labels = sequence[0]
        >>> windows.shape, labels.shape
        ((32, 60), (32,))

    Args:
        train_data: frame with columns `mid` (price) and `position` (-1, 0 or 1), a row a minute, in the
            order of time.
        lookback_period: prices in a window, the predicted minute included.
        batch_size: windows in a batch.
        enable_shuffle: whether the windows are drawn in a random order, another in each epoch; else they
            come in the order of time.
        seed: of the shuffle; the order is a function of the seed and the epoch alone.
        **kwargs: of `keras.utils.PyDataset`: workers, use_multiprocessing, max_queue_size.

    Attributes:
        lookback_period: as given; models are built from it.
        batch_size: as given.
        num_windows: windows in an epoch.
        prices: (rows,); float32 where that holds every price exactly, as it does most markets' ticks, which
            halves the memory that a window comes from and changes no window by a bit; else float64.
        low: lowest price of each window, (num_windows,), of the same type.
        height: highest minus lowest price of each, 1 where flat, float32, (num_windows,).
        labels: label of each window, int64, (num_windows,).

    Raises:
        UserError: a column is missing, a value is not finite, or there are fewer rows than a window has.
    """

    def __init__(
        self,
        train_data: pd.DataFrame,
        lookback_period: int = 1440,
        batch_size: int = 32,
        enable_shuffle: bool = True,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        missing = [name for name in ("mid", "position") if name not in train_data.columns]
        if missing:
            raise UserError(
                f"train_data needs columns mid and position, {' and '.join(missing)} missing; "
                f"received {', '.join(map(str, train_data.columns))}"
            )
        for name, value in (("lookback_period", lookback_period), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, received {value}")
        if len(train_data) < lookback_period:
            raise UserError(
                f"{len(train_data):,} rows are fewer than the {lookback_period:,} of one window; "
                "use more data or a smaller lookback"
            )
        prices, positions = (train_data[name].to_numpy(np.float64) for name in ("mid", "position"))
        if not (np.isfinite(prices).all() and np.isfinite(positions).all()):
            raise UserError("train_data must hold finite numbers; mid or position has NaN or infinity")
        self.lookback_period = lookback_period
        self.batch_size = batch_size
        short = prices.astype(np.float32)
        self.prices = short if np.array_equal(short, prices) else np.ascontiguousarray(prices)
        low, self.height = window_scales(prices, lookback_period)
        self.low = low.astype(self.prices.dtype)
        self.labels = (positions[lookback_period - 1 :] > 0).astype(np.int64)
        self.num_windows = len(self.labels)
        self._shuffle, self._seed, self._epoch = enable_shuffle, seed, 0
        self._order = self.order(0)

    def order(self, epoch: int) -> np.ndarray:
        """Window indices in the order that an epoch (from 0) uses them: int32, (num_windows,)."""
        indices = np.arange(self.num_windows, dtype=np.int32)
        if self._shuffle:
            np.random.default_rng([self._seed, epoch]).shuffle(indices)
        return indices

    def windows(self, starts: np.ndarray) -> np.ndarray:
        """The normalised windows that begin at the given rows: float32, (len(starts), lookback_period)."""
        every_window = np.lib.stride_tricks.sliding_window_view(self.prices, self.lookback_period)
        result = np.empty((len(starts), self.lookback_period), np.float32)
        for first in range(0, len(starts), _WINDOWS_AT_ONCE):
            part = starts[first : first + _WINDOWS_AT_ONCE]
            result[first : first + _WINDOWS_AT_ONCE] = normalised(
                every_window[part], self.low[part, None], self.height[part, None], np.float32
            )
        return result

    def __len__(self) -> int:
        return -(-self.num_windows // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index` of the epoch: windows float32 (batch, lookback_period), labels int64 (batch,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        first = index % len(self) * self.batch_size
        starts = self._order[first : first + self.batch_size]
        return self.windows(starts), self.labels[starts]

    def on_epoch_end(self) -> None:
        self._epoch += 1
        if self._shuffle:
            self._order = self.order(self._epoch)
