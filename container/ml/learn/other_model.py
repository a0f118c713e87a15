"""What a published model says about a history: for the comparison with the model that would take its place."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def probabilities_of(h5: bytes, history: pd.DataFrame, rows: int) -> np.ndarray:
    """Probability of buy of the last rows of a history, (rows,), by the model in the bytes of an .h5 file.

    Args:
        h5: the file's bytes: normalised windows of any lookback in, probabilities of sell and buy out.
        history: mid and position; it ends with the rows to predict.
        rows: how many.

    Raises:
        ValueError: Keras does not read it, it takes or gives something else, or the history is too short for it.
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
    needed = rows + lookback - 1
    if needed > len(history):
        raise ValueError(f"it takes {lookback} prices, and the history has {len(history):,} rows, not {needed:,}")
    windows = TrainSequence(history.iloc[-needed:], lookback, 4096, enable_shuffle=False)
    return np.asarray(model.predict(windows, verbose=0))[:, 1]
