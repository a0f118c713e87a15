"""The windows: the last `lookback` prices up to each bar, scaled to 0..1, cut only when asked for.

What a window needs beyond its prices is its lowest price and its height. Both are known for every
window of a series from one pass over it (O(rows), whatever the lookback), so cutting a window is one
subtraction and one division a price, in NumPy for `seq[i]` and on the device in training alike.
"""

import keras
import numpy as np
import pandas as pd

from ml.errors import UserError
from ml.segments import MAX_GAP, segment_bounds, valid_starts

_WINDOWS_AT_ONCE = 256  # 256 windows of 1440 float64 prices, 3 MB, stay in a core's cache
_INT32_ROWS = 2**31 - 1  # the largest number of prices whose places an int32 holds
_SCALED_AT_ONCE = 1 << 20  # windows; what their scales take for a while stays below 50 MB


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
        prices: (rows,), of any float type.
        lookback: prices in a window.

    Returns:
        low, of the prices' type, and height, float32, both (rows - lookback + 1,); height is 0 where a window is flat.
    """
    windows = len(prices) - lookback + 1
    low, height = np.empty(windows, prices.dtype), np.empty(windows, np.float32)
    for first in range(0, windows, _SCALED_AT_ONCE):
        last = min(first + _SCALED_AT_ONCE, windows)
        rolling = pd.Series(prices[first : last + lookback - 1].astype(np.float64)).rolling(lookback)
        lowest = rolling.min().to_numpy()[lookback - 1 :]
        low[first:last] = lowest
        height[first:last] = rolling.max().to_numpy()[lookback - 1 :] - lowest
    return low, height


class TrainSequence(keras.utils.PyDataset):
    """Batches of normalised windows of a price history and their labels, shuffled anew each epoch.

    Window i covers rows [i, i + lookback_period) and its label is the position of its last row: 1 (buy)
    where position > 0, else 0 (sell). Every window is in exactly one batch of an epoch; the last batch
    may be smaller. Memory is that of the price series, whatever the lookback.

    A window whose rows are of two segments is none: of two instruments (column `symbol`), or, where the frame is
    indexed by time, on two sides of a gap longer than max_gap. A window is known by its start, its first row.

    Example:
        >>> sequence = TrainSequence(frame[["mid", "position"]], lookback_period=60, batch_size=32)
        >>> windows, labels = sequence[0]
        >>> windows.shape, labels.shape
        ((32, 60), (32,))

    Args:
        train_data: frame with columns `mid` (price) and `position` (-1, 0 or 1), a row a bar, in the order of time;
            of several instruments one after the other, with a column `symbol`. A column `decided` (bool) may say at
            which rows the position is certain (`ml.optimal_position.decided_bars`).
        lookback_period: prices in a window, the predicted bar included.
        batch_size: windows in a batch.
        enable_shuffle: whether the windows are drawn in a random order, another in each epoch; else they
            come in the order of time.
        seed: of the shuffle; the order is a function of the seed and the epoch alone.
        max_gap: longest time between two bars of a segment, such as `30min` or `4d`; `off`: any.
        skip_flat: whether to leave out the windows whose prices are all the same, which say nothing.
        longest_lookback: use the windows that end where a window of so many prices does, so that sequences of several
            lookbacks are of the same rows in the same order, and leave out those where that one is flat; 0: all.
        **kwargs: of `keras.utils.PyDataset`: workers, use_multiprocessing, max_queue_size.

    Attributes:
        lookback_period: as given; models are built from it.
        batch_size: as given.
        num_windows: windows in an epoch.
        flat_windows: windows within one segment that are flat.
        prices: (rows,); float32 where that holds every price exactly, as it does most markets' ticks, which
            halves the memory that a window comes from and changes no window by a bit; else float64.
        low: lowest price of the lookback rows from each row on, (rows - lookback + 1,), of the same type.
        height: highest minus lowest price of the same, 1 where flat, float32.
        labels: label of the same, 1 or 0, int8.
        decided: whether that label is certain at its own row, bool; None where train_data has no column `decided`.
        start_type: of the starts: int32, or int64 where that is too short.

    Raises:
        UserError: a column is missing, a value is not finite, or there is no window.
    """

    def __init__(
        self,
        train_data: pd.DataFrame,
        lookback_period: int = 1440,
        batch_size: int = 32,
        enable_shuffle: bool = True,
        seed: int = 0,
        max_gap: str = MAX_GAP,
        skip_flat: bool = False,
        longest_lookback: int = 0,
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
        longest = max(lookback_period, longest_lookback)
        if len(train_data) < longest:
            raise UserError(
                f"{len(train_data):,} rows are fewer than the {longest:,} of one window; "
                "use more data or a smaller lookback"
            )
        prices, positions = (_numbers(train_data[name]) for name in ("mid", "position"))
        if not (np.isfinite(prices).all() and np.isfinite(positions).all()):
            raise UserError("train_data must hold finite numbers; mid or position has NaN or infinity")
        self.lookback_period = lookback_period
        self.batch_size = batch_size
        self.prices = _shortest(prices)
        self.low, self.height = window_scales(self.prices, lookback_period)
        self.labels = (positions[lookback_period - 1 :] > 0).astype(np.int8)
        self.decided = train_data["decided"].to_numpy()[lookback_period - 1 :] if "decided" in train_data else None
        del prices, positions
        valid = self._of_longest(valid_starts(segment_bounds(train_data, max_gap), longest), False)
        if not valid.any():
            raise UserError(
                f"no segment of the {len(train_data):,} rows has the {longest:,} of one window; use a longer "
                f"max_gap than {max_gap}, or a smaller lookback"
            )
        flat = self.height == 0
        self.height[flat] = 1
        if longest > lookback_period:
            flat = self._of_longest(window_scales(self.prices, longest)[1] == 0, True)
        self.flat_windows = int(np.count_nonzero(flat & valid))
        if skip_flat and self.flat_windows:
            valid &= ~flat
            if not valid.any():
                raise UserError(
                    f"every window of {longest:,} prices is flat: the price never moves within one; "
                    "use other prices or a larger lookback"
                )
        self.start_type = np.int32 if len(self.prices) <= _INT32_ROWS else np.int64
        edges = np.flatnonzero(np.diff(valid, prepend=False, append=False))
        self._runs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))  # of valid starts
        self.num_windows = sum(end - first for first, end in self._runs)
        self._shuffle, self._seed, self._epoch = enable_shuffle, seed, 0
        self._order: np.ndarray | None = None  # of the epoch, once a batch is asked for

    @property
    def starts(self) -> np.ndarray:
        """The start of every window, rising, (num_windows,)."""
        starts = np.empty(self.num_windows, self.start_type)
        filled = 0
        for first, end in self._runs:
            starts[filled : filled + end - first] = np.arange(first, end, dtype=starts.dtype)
            filled += end - first
        return starts

    def order(self, epoch: int, seed: int | None = None) -> np.ndarray:
        """The starts in the order that an epoch (from 0) uses them, (num_windows,); by the given seed or its own."""
        starts = self.starts
        if self._shuffle:
            np.random.default_rng([self._seed if seed is None else seed, epoch]).shuffle(starts)
        return starts

    def _of_longest(self, values: np.ndarray, before: bool) -> np.ndarray:
        """Values of longer windows at the windows that end where they do; `before` where none does."""
        return np.concatenate([np.full(len(self.height) - len(values), before), values])

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

    def free_prices(self) -> None:
        """Lets go of prices, scales and labels, once the devices have them; what orders the epochs is left."""
        self.prices, self.low, self.height, self.labels = (
            values[:0].copy() for values in (self.prices, self.low, self.height, self.labels)
        )
        self.decided = None

    def __len__(self) -> int:
        return -(-self.num_windows // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index` of the epoch: windows float32 (batch, lookback_period), labels int64 (batch,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        if self._order is None:
            self._order = self.order(self._epoch)
        first = index % len(self) * self.batch_size
        starts = self._order[first : first + self.batch_size]
        return self.windows(starts), self.labels[starts].astype(np.int64)

    def on_epoch_end(self) -> None:
        self._epoch += 1
        if self._shuffle:
            self._order = None


def _numbers(column: pd.Series) -> np.ndarray:
    """A column's numbers, of its own type where a float64 holds that without a copy."""
    values = column.to_numpy()
    return values if values.dtype in (np.float32, np.float64, np.int8) else column.to_numpy(np.float64)


def _shortest(values: np.ndarray) -> np.ndarray:
    """The values as float32 where that changes none, else as float64."""
    short = values.astype(np.float32, copy=False)
    return short if np.array_equal(short, values) else np.ascontiguousarray(values, np.float64)
