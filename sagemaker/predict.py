"""Positions by a trained model over prices: in a process of its own, with TensorFlow, which the launcher does without.

A job's model is asked by its SavedModel, which scales the prices itself, as it serves; one from KYDB is an .h5 file,
and the training's own arithmetic scales for it.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

from ml.errors import UserError
from ml.settings import SETTINGS, Settings, parse_settings, parse_value

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_WINDOWS = 4096  # at a time
_NEEDED = ("tensorflow", "keras", "pandas", "pyarrow", "kydb")
_OF_THE_TRAINING = ("start_date", "end_date", "preset")  # what says nothing of how prices are read later


def predict(
    *, folder: Path | None, model: tuple[str, str] | None, prices: list[str], settings: dict[str, str], out: Path
) -> dict[str, Any]:
    """Writes the positions over a price history.

    Args:
        folder: of the model's files; None: `model` says where it is.
        model: KYDB URL and key of an .h5 file.
        prices: a file or a folder; none: KYDB, as `settings` say.
        settings: of the job, for reading prices.
        out: the Parquet file to write.

    Returns:
        The last bar, in the words of `predict --json`.

    Raises:
        UserError: the packages are not installed, or the model or the prices cannot be read or do not fit.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"predict needs {', '.join(missing)}, which the launcher does without: pip install -r requirements.txt"
        )
    settings = {name: value for name, value in settings.items() if name in SETTINGS}
    question = {
        "folder": folder and str(folder.resolve()),
        "model": model,
        "prices": prices,
        "settings": settings,
        "out": str(out),
    }
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(question)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    lines = done.stdout.splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it left no word"])[-1]
        raise UserError(f"the process that predicts ended with code {done.returncode}: {last}") from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def reading_settings(job: dict[str, str], given: dict[str, str], *, from_files: bool) -> dict[str, str]:
    """The settings that say how prices are read: the job's, but for its dates, and those that were given."""
    settings = {name: value for name, value in job.items() if name not in _OF_THE_TRAINING} | given
    if from_files:
        settings.pop("prices_db", None)
    elif not parse_value("prices_db", settings.get("prices_db", "")):
        raise UserError("there are no prices; give --prices FILE or --set prices_db=URL")
    return settings


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from io import BytesIO

    import pandas as pd

    from ml.files import write_whole

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


def _read_prices(prices: list[str], settings: Settings) -> "pd.DataFrame":
    """The price history, read as a job reads it."""
    from ml.data.sources import read_channel, read_kydb
    from place.inputs import files_at
    from request import file_uri

    if not prices:
        return read_kydb(settings.prices_db, settings.prices_key, settings.start_date, settings.end_date)
    with tempfile.TemporaryDirectory() as folder:  # where files lie as in a job's channel
        channel = Path(folder) / settings.prices_channel
        channel.mkdir()
        for file in files_at(file_uri(list(map(Path, prices)))):
            target = channel / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.path)
        return read_channel(channel, settings.start_date, settings.end_date)


_Model = tuple[int, Callable[["pd.DataFrame"], "np.ndarray"]]  # its lookback, and the chance of buy of each window


def _served(folder: str) -> _Model:
    import numpy as np
    import tensorflow as tf

    path = Path(folder) / "1"
    if not (path / "saved_model.pb").is_file():
        raise UserError(f"{folder} has no SavedModel 1/, which a job leaves beside its .h5 file")
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    lookback = signature.structured_input_signature[1]["prices"].shape[1]

    def probabilities(history: "pd.DataFrame") -> "np.ndarray":
        windows = np.lib.stride_tricks.sliding_window_view(history["mid"].to_numpy(np.float64), lookback)
        parts = [windows[first : first + _WINDOWS] for first in range(0, len(windows), _WINDOWS)]
        answers = [next(iter(signature(prices=tf.constant(part)).values())) for part in parts]
        return np.concatenate([answer.numpy()[:, 1] for answer in answers])

    return lookback, probabilities


def _kydb_model(url: str, key: str) -> _Model:
    import keras
    import numpy as np

    from ml.databases import connect
    from ml.errors import one_line, redacted
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

    def probabilities(history: "pd.DataFrame") -> "np.ndarray":
        sequence = TrainSequence(history[["mid"]].assign(position=0), lookback, _WINDOWS, enable_shuffle=False)
        return np.concatenate([np.asarray(model(sequence[part][0]))[:, 1] for part in range(len(sequence))])

    return lookback, probabilities


if __name__ == "__main__":
    try:
        said = _answer(json.loads(sys.argv[1]))
    except UserError as error:
        said = {"error": str(error)}
    print(json.dumps(said))
