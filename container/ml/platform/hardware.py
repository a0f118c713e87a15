"""The hardware found, and what is chosen for it. Every choice that depends on hardware is made here."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import UserError
from ml.learn.devices import Instance
from ml.platform import cuda
from ml.platform.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

_GPU_INSTANCE = re.compile(r"ml\.(p\d|g\d)")


def usable_cores() -> int:
    """Cores this process may use: its affinity, cut by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or a quota of "max"
        pass
    return max(1, cores)


def find_instance(precision: str, *, instance_type: str = "", allow_cpu: bool = False) -> Instance:
    """The hardware of this host; call it before TensorFlow has run anything. Imports TensorFlow.

    Args:
        precision: the setting: auto, float32, bfloat16 or float16.
        instance_type: SageMaker's name of the instance, empty where unknown.
        allow_cpu: whether to go on where the instance has a GPU that TensorFlow cannot use.

    Raises:
        UserError: the instance has a GPU that TensorFlow cannot use.
    """
    import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        for gpu in gpus:  # take memory as needed: several jobs may share a card on a laptop
            tf.config.experimental.set_memory_growth(gpu, True)
        details = tf.config.experimental.get_device_details(gpus[0])
        best, reason = _gpu_precision(details.get("compute_capability", (0, 0)))
        devices = f"{len(gpus)} x {details.get('device_name', 'GPU')}"
    else:
        _refuse_idle_gpu(instance_type, allow_cpu)
        if usable_cores() < len(os.sched_getaffinity(0)):  # TensorFlow knows of the affinity, not of a quota
            tf.config.threading.set_intra_op_parallelism_threads(usable_cores())
        best, reason = cpu_precision()
        devices = f"{usable_cores()} CPU cores"
    chosen = best if precision == "auto" else precision
    reason = reason if precision == "auto" else "as set"
    return make_instance(
        tf.config.list_logical_devices("GPU" if gpus else "CPU"),
        chosen,
        f"{devices}, multiplying in {chosen} ({reason})",
    )


def make_instance(devices: "list[tf.config.LogicalDevice]", precision: str, description: str) -> Instance:
    """The choices for a list of devices of one kind."""
    import tensorflow as tf

    several = len(devices) > 1
    strategy = (
        tf.distribute.MirroredStrategy([device.name for device in devices]) if several else tf.distribute.get_strategy()
    )
    return Instance(
        description=description,
        strategy=strategy,
        precision=precision,
        # Measured on CPUs: oneDNN's multiplications are 8 times as fast as XLA's. On GPUs both call
        # cuBLAS, and XLA saves the trips through memory between the multiplications.
        compile_step=devices[0].device_type == "GPU",
        # Compiled, Adam is one pass over its slots instead of eight (1.8 against 4.7 ms for 2.5 million
        # weights on 2 cores). An update that speaks to other devices or may be skipped is not compiled.
        compile_update=not several and precision != "float16",
        # Measured on an H200: a step of pieces costs 0.9 ms, of which the arithmetic is 0.2; in one program 0.22.
        one_program=not several and devices[0].device_type == "GPU",
    )


def _gpu_precision(capability: tuple[int, int]) -> tuple[str, str]:
    """Fastest precision of a GPU by its compute capability: tensor cores for bfloat16 came with 8.0."""
    level = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        return "bfloat16", level
    if capability >= (7, 0):
        return "float16", f"{level} has no bfloat16"
    return "float32", f"{level} has no tensor cores"


def cpu_precision() -> tuple[str, str]:
    """Fastest precision of this CPU: bfloat16 where it has instructions for it.

    The kernel's flags and not a stopwatch: the choice changes the numbers, so it must be the same on every run.
    """
    flags = set(re.findall(r"\w+", _cpu_flags()))
    for flag in ("amx_bf16", "avx512_bf16", "bf16"):  # Intel; Intel and AMD; Arm
        if flag in flags:
            return "bfloat16", f"the CPU has {flag}"
    return "float32", "the CPU has no bfloat16 instructions"


def _cpu_flags() -> str:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return found.group(1) if found else ""


def _refuse_idle_gpu(instance_type: str, allow_cpu: bool) -> None:
    evidence = (
        f"the instance type is {instance_type}"
        if _GPU_INSTANCE.match(instance_type)
        else "/dev/nvidia0 is there"
        if Path("/dev/nvidia0").exists()
        else ""
    )
    if evidence and not allow_cpu:
        raise UserError(
            f"{evidence} but TensorFlow sees no GPU, and training would run on the CPU at a GPU's price: "
            f"{_why_no_gpu()}, or set allow_cpu=true"
        )


def _why_no_gpu() -> str:
    """What keeps TensorFlow from a GPU, and the remedy."""
    import tensorflow as tf

    if not tf.test.is_built_with_cuda():
        return "this TensorFlow is built for CPUs; use the image built with ACCELERATOR=gpu, or requirements-gpu.txt"
    missing = cuda.missing()
    if cuda.DRIVER in missing:
        return f"the driver's {cuda.DRIVER} is missing; start the container with it (docker run --gpus all)"
    if missing:
        return (
            f"{', '.join(missing)} of CUDA cannot be opened; use the image built with ACCELERATOR=gpu, or install "
            "requirements-gpu.txt again"
        )
    return "the libraries of CUDA are there; TF_CPP_MIN_LOG_LEVEL=0 makes TensorFlow say why"
