"""Whether a process of the GPU image finds every library of CUDA that TensorFlow opens by name. Needs no GPU.

    docker run --rm -i IMAGE python - < tests/tools/cuda_libraries.py

One library that is not found, and TensorFlow uses no GPU at all. Two ways are looked at: the program's, which opens the
libraries by path, and that of a user's own script, which has the loader's configuration alone.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from ml.platform import cuda

# Named in TensorFlow too, but part of the driver (cuda, nvml), or of packages that it does without.
NOT_PACKAGED = {"cuda", "nvml", "nvshmem", "tensorrt"}


def named_in_tensorflow() -> set[str]:
    """Names of the libraries that TensorFlow has stubs for, each of which opens the library when it is first called."""
    folder = Path(importlib.util.find_spec("tensorflow").origin).parent
    binaries = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
    found = (re.findall(rb"/tsl/cuda/(\w+)_stub\.cc", (folder / name).read_bytes()) for name in binaries)
    return {name.decode() for names in found for name in names} - NOT_PACKAGED


def opens_by_name(library: Path) -> bool:
    script = f"import ctypes; ctypes.CDLL({library.name!r})"
    return not subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode


def main() -> None:
    named = named_in_tensorflow()
    if not named:
        sys.exit("this TensorFlow is built for CPUs only; build the image with ACCELERATOR=gpu")
    cuda.open_libraries()
    problems = [f"{name} is not opened by the program" for name in cuda.missing() if name != cuda.DRIVER]
    problems += [f"{name} is no library that TensorFlow names" for name in sorted(set(cuda.NEEDED) - named)]
    for name in sorted(named):
        library = cuda.packaged(name)
        if not library:
            problems.append(f"lib{name}.so is in no package")
        elif not opens_by_name(library):
            problems.append(f"{library.name} is not found by name")
    if problems:
        sys.exit("TensorFlow would use no GPU: " + "; ".join(problems))
    print(f"found: {', '.join(sorted(named))}")


main()
