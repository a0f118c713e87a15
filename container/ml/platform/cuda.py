"""CUDA's libraries as pip installs them, opened by path: TensorFlow does not look in the folder of one of them."""

import ctypes
import importlib.util
import re
from pathlib import Path

# What TensorFlow opens by name before it uses a GPU; without one of them it uses none (TensorFlow 2.21's
# "Cannot dlopen some GPU libraries"). Their versions are those of the packages that its wheel requires.
NEEDED = ("cudart", "cublasLt", "cublas", "cufft", "cusparse", "cusolver", "cudnn")
_NEEDED_BY_THEM = ("nvJitLink",)  # which cusparse and cusolver are linked to
DRIVER = "libcuda.so.1"


def open_libraries() -> None:
    """Opens CUDA's libraries in the folders of NVIDIA's packages; does nothing where there are none.

    A library that is open satisfies whoever asks for it by name later. TensorFlow's own search path lacks the folder of
    cusolver, and LD_LIBRARY_PATH is read when a process starts.
    """
    waiting = [path for name in (*_NEEDED_BY_THEM, *NEEDED) if (path := packaged(name))]
    while waiting:
        # One may need another one of them, so they are tried until a whole pass opens none.
        failed = [path for path in waiting if not _opens(path)]
        if len(failed) == len(waiting):
            return  # `missing` tells, where the instance has a GPU
        waiting = failed


def missing() -> list[str]:
    """File names of the libraries that a GPU needs and this process has not opened; call it after TensorFlow's import.

    The driver's comes from the host, the others from NVIDIA's packages or the system.
    """
    opened = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    names = [f"lib{name}.so" for name in NEEDED if not re.search(rf"/lib{name}\.so\b", opened)]
    return names if _opens(DRIVER) else [DRIVER, *names]


def packaged(name: str) -> Path | None:
    """The file of a library in NVIDIA's packages."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    found = sorted(path for folder in folders or () for path in Path(folder).glob(f"*/lib/lib{name}.so*"))
    return found[0] if found else None


def _opens(library: str | Path) -> bool:
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
