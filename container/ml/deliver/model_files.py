"""The files of a model in /opt/ml/model: an .h5, a .keras and a SavedModel, with the JSON files beside them.

Every file's content is made in memory and written by plain I/O. HDF5 and TensorFlow never write to a disk
themselves: HDF5 crashes the process, past every `except`, where a disk is full.
"""

import contextlib
import io
import json
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.errors import UserError, one_line
from ml.files import finish_replacing, json_text, write_together

if TYPE_CHECKING:
    import keras

_FILE_OVERHEAD = 4_000_000  # bytes of a model's files beside its weights, generously

# What an .h5 says of a layer beside its name and dtype. Keras writes much more, most of it defaults, and each version
# refuses the names that came after it. From these few, Keras 2.15 and 3.3 to 3.15 make the same network.
_DESCRIBED = {
    "Rescaling": ("scale", "offset"),
    "Dense": ("units", "activation"),
    "Dropout": ("rate",),
}


def check_folder(folder: Path, weights: int) -> None:
    """Proves, before anything expensive, that a model of this many weights can be saved in a folder.

    Raises:
        UserError: it cannot be written, or its disk is too full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        finish_replacing(folder)
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


def save_model(
    model: "keras.Model",
    h5: bytes,
    folder: Path,
    h5_name: str,
    records: Mapping[str, Mapping[str, Any]],
    others: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a model in the three forms its users load, and its records: all of them or none.

    Args:
        model: normalised windows (batch, lookback) in, probabilities (batch, 2) of sell and buy out.
        h5: the model as `h5_content` makes it.
        folder: /opt/ml/model; gets the .h5 file, `model.keras`, and `1/`, a SavedModel for TensorFlow
            Serving that takes raw prices and normalises them in its graph.
        h5_name: name of the .h5 file.
        records: file name to the JSON object that is saved with the model.
        others: further files, path below the folder to content.

    Raises:
        UserError: the folder cannot be written; what it held before is untouched.
    """

    def contents():
        yield h5_name, h5
        yield "model.keras", _keras_content(model)
        yield from _saved_model(model)
        for name, record in records.items():
            yield name, json_text(record)
        yield from (others or {}).items()

    try:
        write_together(folder, contents())
    except Exception as error:  # Keras and TensorFlow each have their own
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        raise UserError(
            f"the model cannot be saved in {folder}, which has {free / 1e6:,.1f} MB free: {one_line(error)}"
        ) from error


def h5_content(model: "keras.Model") -> bytes:
    """A model as the bytes of an .h5 file that Keras 2.15, and Keras 3 from 3.3 on, load.

    Raises:
        KeyError: the model has a layer of a kind that `build_network` does not use.
    """
    import h5py
    import keras

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = keras.__version__
        file.attrs["backend"] = "tensorflow"
        # Bytes, since Keras 2 decodes it where h5py gives bytes, as Keras itself writes it.
        file.attrs["model_config"] = json.dumps(_description(model)).encode()
        group = file.create_group("model_weights")
        group.attrs["keras_version"] = keras.__version__
        group.attrs["backend"] = "tensorflow"
        group.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            of_layer = group.create_group(layer.name)
            names = [weight.path for weight in layer.weights]
            of_layer.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                of_layer[name] = weight.numpy()
    return buffer.getvalue()


def _description(model: "keras.Model") -> dict[str, Any]:
    """The model's layers in the words that Keras 2 and every Keras 3 share."""
    first = {"name": model.inputs[0].name, "dtype": "float32", "batch_input_shape": [None, model.input_shape[1]]}
    layers = [{"class_name": "InputLayer", "config": first}]
    for layer in model.layers:
        kind, config = type(layer).__name__, layer.get_config()
        described = {"name": layer.name, "dtype": "float32"} | {name: config[name] for name in _DESCRIBED[kind]}
        layers.append({"class_name": kind, "config": described})
    return {"class_name": "Sequential", "config": {"name": model.name, "layers": layers}}


def _keras_content(model: "keras.Model") -> bytes:
    """A model as the bytes of a .keras file that Keras 3, from 3.3 on, loads."""
    with _memory_folder() as folder:
        model.save(f"{folder}/model.keras")
        whole = _read(f"{folder}/model.keras")
    description = _description(model)
    for layer in description["config"]["layers"]:
        layer |= {"module": "keras.layers", "registered_name": None}
    description |= {"module": "keras", "registered_name": None}
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(content, "w") as target:
        for entry in source.infolist():
            short = json.dumps(description).encode() if entry.filename == "config.json" else source.read(entry)
            target.writestr(entry, short)
    return content.getvalue()


def _saved_model(model: "keras.Model") -> Iterator[tuple[str, bytes]]:
    """The files of a SavedModel from raw prices (batch, lookback) to probabilities (batch, 2), below `1/`.

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

    archive: Any = keras.export.ExportArchive()  # typed as one of several backends' classes
    archive.track(model)
    for name, dtype in (("serving_default", tf.float64), ("serving_float32", tf.float32)):
        archive.add_endpoint(name, probabilities, [tf.TensorSpec((None, model.input_shape[1]), dtype, "prices")])
    with _memory_folder() as folder:
        archive.write_out(f"{folder}/1", verbose=False)
        for parent, _, names in tf.io.gfile.walk(f"{folder}/1"):
            for name in names:
                yield f"{parent.removeprefix(folder).strip('/')}/{name}", _read(f"{parent}/{name}")


@contextlib.contextmanager
def _memory_folder() -> Iterator[str]:
    """A folder of TensorFlow's file system in memory."""
    import tensorflow as tf

    folder = f"ram://{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(folder)
    try:
        yield folder
    finally:
        tf.io.gfile.rmtree(folder)


def _read(path: str) -> bytes:
    import tensorflow as tf

    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()
