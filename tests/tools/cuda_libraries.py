"""Whether a process of the GPU image finds every library of CUDA that TensorFlow opens by name. Needs no GPU.

    docker run --rm -i IMAGE python - < tests/tools/cuda_libraries.py

One library that is not found, and TensorFlow uses no GPU at all.
"""

import ctypes
import sys

import tensorflow as tf

# What libtensorflow_framework opens, with the major versions of the CUDA that it was built for.
OPENED_BY_NAME = (
    "libcudart.so.12",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcufft.so.11",
    "libcusolver.so.11",
    "libcusparse.so.12",
    "libcudnn.so.9",
    "libcupti.so.12",
    "libnccl.so.2",
)


def problem(name: str) -> str:
    """Why a library cannot be opened; empty where it can."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return ""


if not tf.test.is_built_with_cuda():
    sys.exit("this TensorFlow is built for CPUs only; build the image with ACCELERATOR=gpu")
problems = list(filter(None, map(problem, OPENED_BY_NAME)))
if problems:
    sys.exit("TensorFlow would use no GPU: " + "; ".join(problems))
print(f"all {len(OPENED_BY_NAME)} libraries that TensorFlow opens by name are found")
