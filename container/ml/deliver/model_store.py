"""Where a model goes: /opt/ml/model for SageMaker, and a KYDB key for those who read it from there.

TensorFlow is imported where a model is written and nowhere else: the launcher publishes finished models
without it.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ml.databases import TIMEOUT, connect, patiently
from ml.errors import UserError, one_line, redacted
from ml.settings import Settings

if TYPE_CHECKING:
    import keras

_DYNAMODB_ITEM_BYTES = 400_000
_H5_BYTES, _H5_BYTES_A_LAYER = 12_000, 6_300  # of an .h5 file beside its weights, as measured for 1 to 20 layers
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_VERSIONS_FOLDER = "/model_versions"  # apart from the models, so that db.ls shows the models alone
_FILE_OVERHEAD = 4_000_000  # bytes of a model's files beside its weights, generously
_LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "kydb", "boto3", "sagemaker-training")


def check_folder(folder: Path, weights: int) -> None:
    """Proves, before anything expensive, that a model of this many weights can be saved in a folder.

    Raises:
        UserError: it cannot be written, or its disk is too full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; the model would be lost") from None
    needed = 3 * 4 * weights + _FILE_OVERHEAD  # three forms of 4 bytes a weight
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e6:,.1f} MB free and the model's files need {needed / 1e6:,.1f} MB; "
            "free some, or set VolumeSizeInGB"
        )


def h5_content(model: "keras.Model") -> bytes:
    """A model as the bytes of an .h5 file, by way of the temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        model.save(path, include_optimizer=False)
        return path.read_bytes()


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
        UserError: the folder cannot be written; what it held before is untouched.
    """
    writing = folder / ".writing"
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir(parents=True)
        model.save(writing / "model.keras")
        model.save(writing / h5_name, include_optimizer=False)
        _export(model, writing / "1")
        for path in list(writing.iterdir()):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    except Exception as error:  # Keras, h5py and TensorFlow each have their own for a full disk
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        raise UserError(
            f"the model cannot be saved in {folder}, which has {free / 1e6:,.1f} MB free: {one_line(error)}"
        ) from error
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
        timeout: seconds without a byte after which a connection counts as dead.
    """

    def __init__(self, url: str, key: str, job_name: str, timeout: float = TIMEOUT):
        self._url, self._key, self._job_name, self._timeout = url, key, job_name, timeout

    def __str__(self) -> str:
        return f"{redacted(self._url)} {self._key}"

    def check(self, settings: Settings, *, given_up: Callable[[], bool] = lambda: False) -> None:
        """Proves, before anything expensive, that the settings' model can be published.

        Writes and deletes a small object beside the key, and one where its versions are kept.

        Args:
            settings: weights and layers tell the model's size, read_seconds how long to keep trying where the
                database does not answer.
            given_up: looked at between attempts: whether to end.

        Raises:
            UserError: it cannot.
        """
        model_bytes = 4 * settings.weights + _H5_BYTES + _H5_BYTES_A_LAYER * settings.layers
        if "dynamodb://" in self._url and model_bytes > _DYNAMODB_ITEM_BYTES:
            raise UserError(
                f"the model, about {model_bytes / 1e6:.1f} MB, does not fit a DynamoDB item (400 KB); "
                f"set model_db to an s3:// URL instead of {redacted(self._url)}"
            )
        probes = [
            f"{place}probe-{_in_a_key(self._job_name)}"
            for place in (f"{self._key}.", f"{_VERSIONS_FOLDER}/{self._key.strip('/')}/")
        ]

        def write_and_compare():
            db = connect(self._url, self._timeout)
            for probe in probes:
                db[probe] = self._job_name
                if db.read(probe, reload=True) != self._job_name:
                    raise OSError("what was read back is not what was written")
            _model_at(db, self._key)
            return db

        try:
            db = patiently(
                write_and_compare, patience=settings.read_seconds, what=f"writing to {self}", given_up=given_up
            )
        except Exception as error:
            raise UserError(
                f"the model cannot be published to {self}: {one_line(error)}; grant this job write and "
                f"read access there and under {_VERSIONS_FOLDER}, or change model_db and model_key"
            ) from error
        for probe in probes:
            with contextlib.suppress(Exception):  # may write but not delete: a few bytes stay, nothing is wrong
                db.delete(probe)

    def publish(self, content: bytes, patience: float, *, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Publishes the bytes of an .h5 file as `publish` does.

        A database that keeps refusing is no reason to lose the job: the model is in model/, and
        `launch.py publish` finishes the work later.

        Args:
            content: the file's bytes.
            patience: seconds to keep trying.
            given_up: looked at between attempts: whether to end.

        Returns:
            Whether the model is published.
        """
        try:
            publish(
                self._url,
                self._key,
                content,
                self._job_name,
                patience=patience,
                timeout=self._timeout,
                given_up=given_up,
            )
        except Exception as error:
            print(
                f"NOT PUBLISHED: {error}; the model is kept in model/, publish it with: "
                f"launch.py publish {self._job_name}",
                flush=True,
            )
            return False
        print(f"published to {self}", flush=True)
        return True


def publish(
    url: str,
    key: str,
    content: bytes,
    job_name: str,
    *,
    patience: float = 300,
    timeout: float = TIMEOUT,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Puts the bytes of an .h5 file under a KYDB key; the models that were there stay, under other keys.

    The bytes are first written under their `version_key`, read back and compared, and a record of the job is
    put beside them. Only then is the key itself set, in the one write that every backend has for an item, so
    that a reader sees one whole model or the other, whoever else publishes at the same time.

    Args:
        url: KYDB URL.
        key: the model's key.
        content: the file's bytes.
        job_name: the job that made it.
        patience: seconds to keep trying: a model that took hours is worth waiting for a database that restarts.
        timeout: seconds without a byte after which a connection counts as dead.
        given_up: looked at between attempts: whether to end.

    Raises:
        UserError: they are not an HDF5 file, the key holds something else, or KYDB keeps refusing.
    """
    if not content.startswith(_HDF5_MAGIC):
        raise UserError(f"what should be published to {redacted(url)} {key} is not an HDF5 file")
    try:
        patiently(
            _publish_once,
            url,
            key,
            content,
            job_name,
            timeout,
            patience=patience,
            given_up=given_up,
            what=f"publishing to {redacted(url)} {key}",
            retry=lambda error: not isinstance(error, UserError),
        )
    except Exception as error:
        raise UserError(f"publishing to {redacted(url)} {key} failed: {one_line(error)}") from error


def _publish_once(url: str, key: str, content: bytes, job_name: str, timeout: float) -> None:
    db = connect(url, timeout)
    before = _model_at(db, key)
    if before is not None and not db.exists(version_key(key, before)):  # published by another program
        _write_version(db, key, before, "unknown")
    _write_version(db, key, content, job_name)
    db[key] = content
    found = _model_at(db, key)
    if found != content and not (found and db.exists(version_key(key, found))):  # nor another job's whole model
        raise OSError("the model read back is not the model written")


def _model_at(db, key: str) -> bytes | None:
    """The model under a key; None where there is nothing.

    Raises:
        UserError: the key holds something else, which publishing would destroy.
    """
    try:
        found = db.read(key, reload=True)
    except KeyError:
        return None
    if not isinstance(found, bytes):
        raise UserError(f"{key} holds a {type(found).__name__} and not a model; set model_key to another key")
    return found


def _write_version(db, key: str, content: bytes, job_name: str) -> None:
    version = version_key(key, content)
    db[version] = content
    if db.read(version, reload=True) != content:
        raise OSError("the model read back is not the model written")
    db[f"{version}.json"] = json.dumps(
        {"job": job_name, "published": datetime.now(timezone.utc).isoformat(timespec="seconds"), "bytes": len(content)}
    )


def version_key(key: str, content: bytes) -> str:
    """The key that keeps a model for good; its record is beside it, under the same with `.json`."""
    return f"{_VERSIONS_FOLDER}/{key.strip('/')}/{hashlib.sha256(content).hexdigest()}"


def _in_a_key(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", text)
