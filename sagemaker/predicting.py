"""The process that predicts: `python predicting.py QUESTION` answers `predict.ask_model` with a line of JSON."""

import json
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

import numpy as np
import pandas as pd

from ml.data.columns import Reading
from ml.data.sources import read_channel, read_kydb
from ml.databases import connect
from ml.errors import UserError, one_line, redacted
from ml.files import write_whole
from ml.hyperparameters import parse_settings
from ml.settings import Settings
from place.inputs import files_at
from request import file_uri

_WINDOWS = 4096  # at a time

_Model = tuple[int, Callable[[pd.DataFrame], np.ndarray]]  # its lookback, and the chance of buy of each window


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    history = _read_prices(question["prices"], parse_settings(question["settings"]))
    lookback, probabilities = _kydb_model(*question["model"]) if question["model"] else _served(question["folder"])
    if len(history) < lookback:
        raise UserError(f"there are {len(history):,} prices, and the model takes {lookback:,} for one position")
    buy = probabilities(history)
    positions = pd.DataFrame(
        {"position": ((buy > 0.5) * 2 - 1).astype("int8"), "probability": buy}, index=history.index[lookback - 1 :]
    )
    content = BytesIO()
    positions.to_parquet(content)
    try:
        write_whole(Path(question["out"]), content.getvalue())
    except OSError as error:
        raise UserError(f"{question['out']} cannot be written: {error.strerror}") from None
    return {
        "Time": str(positions.index[-1]),
        "Position": int(positions["position"].iloc[-1]),
        "Probability": float(positions["probability"].iloc[-1]),
        "Rows": len(positions),
        "Positions": question["out"],
    }


def _read_prices(prices: list[str], settings: Settings) -> pd.DataFrame:
    """The price history, read as a job reads it."""
    if not prices:
        dates = settings.start_date, settings.end_date
        return read_kydb(settings.prices_db, settings.prices_key, *dates, resample=settings.resample).frame
    with tempfile.TemporaryDirectory() as folder:  # where files lie as in a job's channel
        channel = Path(folder) / settings.prices_channel
        channel.mkdir()
        for file in files_at(file_uri(list(map(Path, prices)))):
            target = channel / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.path)
        how = Reading.of(settings)
        return read_channel(channel, settings.start_date, settings.end_date, how, say=_say_nothing).frame


def _say_nothing(_: str) -> None:
    """Standard output is for the answer."""


def _served(folder: str) -> _Model:
    import tensorflow as tf

    path = Path(folder) / "1"
    if not (path / "saved_model.pb").is_file():
        raise UserError(f"{folder} has no SavedModel 1/, which a job leaves beside its .h5 file")
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    lookback = signature.structured_input_signature[1]["prices"].shape[1]

    def probabilities(history: pd.DataFrame) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(history["mid"].to_numpy(np.float64), lookback)
        parts = [windows[first : first + _WINDOWS] for first in range(0, len(windows), _WINDOWS)]
        answers = [next(iter(signature(prices=tf.constant(part)).values())) for part in parts]
        return np.concatenate([answer.numpy()[:, 1] for answer in answers])

    return lookback, probabilities


def _kydb_model(url: str, key: str) -> _Model:
    import keras

    from ml.train_sequence import TrainSequence

    try:
        content = connect(url)[key]
    except KeyError:
        raise UserError(f"there is no model {key} in {redacted(url)}") from None
    except Exception as error:
        raise UserError(f"the model {key} in {redacted(url)} cannot be read: {one_line(error)}") from None
    try:
        with tempfile.NamedTemporaryFile(suffix=".h5") as file:
            file.write(content)
            file.flush()
            model: Any = keras.models.load_model(file.name, compile=False)
        lookback = model.input_shape[1]
    except Exception as error:
        raise UserError(f"{key} in {redacted(url)} is no model of such a job: {one_line(error)}") from None

    def probabilities(history: pd.DataFrame) -> np.ndarray:
        sequence = TrainSequence(history[["mid"]].assign(position=0), lookback, _WINDOWS, enable_shuffle=False)
        return np.concatenate([np.asarray(model(sequence[part][0]))[:, 1] for part in range(len(sequence))])

    return lookback, probabilities


if __name__ == "__main__":
    try:
        said = _answer(json.loads(sys.argv[1]))
    except UserError as error:
        said = {"error": str(error)}
    print(json.dumps(said))
