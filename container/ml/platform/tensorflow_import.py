"""TensorFlow's first import: late, since it takes seconds, and without its banners."""

import contextlib
import gc
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import cast

from ml.platform import cuda


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras; what is wrong with a request is told before."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("absl", "tensorflow", "matplotlib"):  # which warn of .h5 files, asked for here, and tell of fonts
        logging.getLogger(name).setLevel(logging.ERROR)
    cuda.open_libraries()
    with _without_banners(), _without_extras():
        importlib.import_module("tensorflow")
        importlib.import_module("keras")
    if not gc.isenabled():  # since bin/train disabled it
        gc.freeze()  # modules stay to the end, and looking through them takes a fifth of a second each time
        gc.enable()


@contextlib.contextmanager
def _without_banners() -> Iterator[None]:
    """Hides standard error: TensorFlow's libraries tell of oneDNN there, whatever their log level.

    Python's errors are raised afterwards and still show.
    """
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def _without_extras() -> Iterator[None]:
    """Hides what Keras imports where it is found, for plots and wrappers that nobody asks for: half a second each."""
    modules = cast(dict[str, object], sys.modules)
    hidden = [name for name in ("matplotlib", "sklearn") if name not in modules]
    modules |= dict.fromkeys(hidden)  # None: what Python takes for not installed
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
