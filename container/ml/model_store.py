"""Where a model goes: /opt/ml/model for SageMaker, and a KYDB key for those who read it from there.

TensorFlow is imported where a model is written and nowhere else: the launcher publishes finished models
without it.
"""

import contextlib
import importlib.metadata
import json
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kydb
import tenacity

from ml.errors import UserError
from ml.timeseries import one_line, redacted, write_files_whole

if TYPE_CHECKING:
    import keras

_DYNAMODB_ITEM_BYTES = 400_000
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "kydb", "boto3", "sagemaker-training")


def save_model(model: "keras.Model", folder: Path, h5_name: str) -> Path:
    """Writes a model in the three forms its users load, each whole or not at all.

    Args:
        model: normalised windows (batch, lookback) in, probabilities (batch, 2) of sell and buy out.
        folder: /opt/ml/model; gets `model.keras`, the .h5 file and `1/`, a SavedModel for TensorFlow
            Serving that takes raw prices and normalises them in its graph.
        h5_name: name of the .h5 file.

    Returns:
        The path of the .h5 file.

    Raises:
        OSError: the folder cannot be written; what it held before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writing = folder / ".writing"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    try:
        model.save(writing / "model.keras")
        model.save(writing / h5_name, include_optimizer=False)
        _export(model, writing / "1")
        for path in list(writing.iterdir()):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return folder / h5_name


def _export(model: "keras.Model", folder: Path) -> None:
    """A SavedModel from raw prices (batch, lookback) to probabilities (batch, 2).

    `serving_default` takes float64, `serving_float32` float32. Float32 prices keep seven digits, which
    is all that a caller who holds only those can have.
    """
    import keras
    import tensorflow as tf

    from ml.train_sequence import normalised

    def probabilities(prices):
        prices = tf.cast(prices, tf.float64)
        low = tf.reduce_min(prices, axis=1, keepdims=True)
        height = tf.cast(tf.reduce_max(prices, axis=1, keepdims=True) - low, tf.float32)
        height = tf.where(height == 0, 1.0, height)
        return model(normalised(prices, low, height, lambda x: tf.cast(x, tf.float32)), training=False)

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, dtype in (("serving_default", tf.float64), ("serving_float32", tf.float32)):
        archive.add_endpoint(name, probabilities, [tf.TensorSpec((None, model.input_shape[1]), dtype, "prices")])
    archive.write_out(folder, verbose=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all; numbers that JSON has not (nan) become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    temporary.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _without_nan(value):
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def library_versions() -> dict[str, str]:
    """Versions of what can change a model's numbers."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class ModelTarget:
    """The KYDB key that a model is published to.

    Args:
        url: KYDB URL.
        key: the model's key.
        job_name: the job that publishes.
    """

    def __init__(self, url: str, key: str, job_name: str):
        self._url, self._key, self._job_name = url, key, job_name

    def __str__(self) -> str:
        return f"{redacted(self._url)} {self._key}"

    def check(self, weights: int) -> None:
        """Proves, before anything expensive, that a model of this many weights can be published.

        Writes and deletes a small object beside the key.

        Raises:
            UserError: it cannot.
        """
        model_bytes = 4 * weights
        if "dynamodb://" in self._url and model_bytes > _DYNAMODB_ITEM_BYTES:
            raise UserError(f"the model, about {model_bytes / 1e6:.1f} MB, does not fit a DynamoDB item (400 KB); "
                            f"set model_db to an s3:// URL instead of {redacted(self._url)}")
        probe = f"{self._key}.probe-{self._job_name}"
        try:
            db = kydb.connect(self._url)
            db[probe] = self._job_name
            if db.read(probe, reload=True) != self._job_name:
                raise OSError("what was read back is not what was written")
        except Exception as error:
            raise UserError(f"the model cannot be published to {self}: {one_line(error)}; grant this job "
                            "write and read access, or change model_db and model_key") from error
        with contextlib.suppress(Exception):  # may write but not delete: a few bytes stay, nothing is wrong
            db.delete(probe)

    def publish(self, content: bytes, patience: float) -> bool:
        """Puts the bytes of an .h5 file under the key; tries for `patience` seconds.

        A database that keeps refusing is no reason to lose the job: the model is in model/, and
        `launch.py publish` finishes the work later.

        Returns:
            Whether the model is published.
        """
        try:
            publish(self._url, self._key, content, patience)
        except Exception as error:
            print(f"NOT PUBLISHED: {error}; the model is kept in model/, publish it with: "
                  f"launch.py publish {self._job_name}", flush=True)
            return False
        print(f"published to {self}", flush=True)
        return True


def publish(url: str, key: str, content: bytes, patience: float = 60) -> None:
    """Puts the bytes of an .h5 file under a KYDB key, reads them back and compares.

    Args:
        url: KYDB URL.
        key: the model's key.
        content: the file's bytes.
        patience: seconds to keep trying: a model that took hours is worth waiting for a database that restarts.

    Raises:
        UserError: they are not an HDF5 file, or KYDB keeps refusing.
    """
    if not content.startswith(_HDF5_MAGIC):
        raise UserError(f"what should be published to {redacted(url)} {key} is not an HDF5 file")
    attempts = tenacity.Retrying(
        wait=tenacity.wait_exponential_jitter(initial=1, max=20), stop=tenacity.stop_after_delay(patience),
        reraise=True)
    try:
        attempts(_write_and_compare, url, key, content)
    except Exception as error:
        raise UserError(f"publishing to {redacted(url)} {key} failed: {one_line(error)}") from error


def _write_and_compare(url: str, key: str, content: bytes) -> None:
    db = kydb.connect(url)
    write_files_whole(db)
    db[key] = content
    if db.read(key, reload=True) != content:
        raise OSError("the model read back is not the model written")
