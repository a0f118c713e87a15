"""What a published model says about a history: for the comparison with the model that would take its place."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ml.learn.folds import Fold
from ml.learn.split import longest_segment
from ml.segments import instrument_slices, segment_bounds

_WINDOWS_AT_ONCE = 4096


def probabilities_of(h5: bytes, fold: Fold, rows: np.ndarray, max_gap: str) -> np.ndarray:
    """Probability of buy, (rows,), by the model in the bytes of an .h5 file; nan where it has no window.

    Args:
        h5: the file's bytes: normalised windows of any lookback in, probabilities of sell and buy out.
        fold: whose held-out rows are predicted, from windows that may begin before them.
        rows: which, by number from the first held-out one.
        max_gap: longest time between two bars of a window.

    Raises:
        ValueError: Keras does not read it, it takes or gives something else, or no row has a window of its length.
    """
    import keras

    from ml.train_sequence import TrainSequence

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        path.write_bytes(h5)
        model: Any = keras.models.load_model(path, compile=False)
    lookback = model.input_shape[1] if len(model.input_shape) == 2 else None
    if not lookback or model.output_shape[1:] != (2,):
        raise ValueError(
            f"it takes {model.input_shape} and gives {model.output_shape}, not windows and two probabilities"
        )
    of_rows = np.full(fold.counts[1], np.nan, np.float32)
    before = 0  # held-out rows of the instruments before
    for whole, held_out in zip(instrument_slices(fold.prices).values(), fold.parts[1], strict=True):
        first = max(whole.start, held_out.start - lookback + 1)
        ends = before + first - held_out.start + lookback - 1  # of the window that begins at the first row
        before += held_out.stop - held_out.start
        part = fold.prices.iloc[first : held_out.stop]
        if longest_segment(segment_bounds(part, max_gap), [slice(0, len(part))]) < lookback:
            continue
        windows = TrainSequence(part, lookback, _WINDOWS_AT_ONCE, enable_shuffle=False, max_gap=max_gap)
        of_rows[windows.starts + ends] = np.asarray(model.predict(windows, verbose=0))[:, 1]
    if not np.isfinite(of_rows[rows]).any():
        raise ValueError(f"it takes {lookback} prices, and no held-out row has as many before it without a cut")
    return of_rows[rows]
