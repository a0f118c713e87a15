"""The hardware found, and what is chosen for it. Every choice that depends on hardware is made here."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml.errors import UserError
from ml.learn.devices import Instance
from ml.learn.hosts import ONE_HOST, Hosts
from ml.platform import cuda
from ml.platform.programs import FOLDER_VARIABLE, KeptPrograms
from ml.platform.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

# A CPU runs a network as one program where its steps are too small to be shared out piece by piece. Measured on 16
# cores (docs/speed.md): 47,000 weights were fastest on 4 threads, 767,000 windows a second against 520,000 by pieces
# whatever the threads; 2.5 million weights made 97,000 against 180,000. Between them nothing was measured.
_SMALL = 100_000  # weights
_THREADS = 4

_CONNECTING_SECONDS = 50.0  # a host that dies ends the others within a minute

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


def find_instance(
    precision: str,
    *,
    instance_type: str = "",
    allow_cpu: bool = False,
    weights: int | None = None,
    programs: Sequence[Path] = (),
    hosts: Hosts = ONE_HOST,
) -> Instance:
    """The hardware of this host, or of several; call it before TensorFlow has run anything. Imports TensorFlow.

    Args:
        precision: the setting: auto, float32, bfloat16 or float16.
        instance_type: SageMaker's name of the instance, empty where unknown.
        allow_cpu: whether to go on where the instance has a GPU that TensorFlow cannot use.
        weights: of the network, by which CPUs choose between loops; None: unknown.
        programs: folders that keep compiled programs from one process to the next.
        hosts: that are to train one network together; each calls this.

    Raises:
        UserError: the instance has a GPU that TensorFlow cannot use, or the hosts are not alike.
    """
    # On a CPU results are the same without them, so programs are kept only where somebody wants the time they spare.
    kept = KeptPrograms(programs) if programs and (_has_gpu() or os.environ.get(FOLDER_VARIABLE)) else None
    import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        _refuse_idle_gpu(instance_type, allow_cpu)
    found = _found_gpus(gpus) if gpus else _found_cpu(weights if hosts.count == 1 else None)
    found = _of_all(hosts, found, len(gpus))
    chosen, reason = found.precision if precision == "auto" else (precision, "as set")
    description = f"{found.devices}, multiplying in {chosen} ({reason})"
    if kept and (count := kept.take(found.facts)):
        description += f", with {count} compiled programs from before"
    if hosts.count > 1:
        instance = _instance_over(hosts, "GPU" if gpus else "CPU", chosen, description)
    else:
        instance = make_instance(tf.config.list_logical_devices("GPU" if gpus else "CPU"), chosen, description)
    return dataclasses.replace(
        instance,
        one_program=hosts.count == 1 and (instance.one_program or found.one_program),
        facts=found.facts,
        programs=kept.folders if kept else (),
        keep_programs=kept.keep if kept else lambda: None,
    )


class _Found(NamedTuple):
    """Devices as a line names them, their fastest precision and why, what results depend on, and the loop."""

    devices: str
    precision: tuple[str, str]
    facts: dict[str, str]
    one_program: bool = False


def _found_gpus(gpus: "list[tf.config.PhysicalDevice]") -> _Found:
    import tensorflow as tf

    for gpu in gpus:  # take memory as needed: several jobs may share a card on a laptop
        tf.config.experimental.set_memory_growth(gpu, True)
    details = tf.config.experimental.get_device_details(gpus[0])
    devices = f"{len(gpus)} x {details.get('device_name', 'GPU')}"
    return _Found(devices, _gpu_precision(details.get("compute_capability", (0, 0))), _gpu_facts(details))


def _found_cpu(weights: int | None) -> _Found:
    import tensorflow as tf

    cores = usable_cores()
    if weights is not None and weights <= _SMALL and cores >= _THREADS:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS)
        devices = f"{cores} CPU cores, {_THREADS} of them used by a small network"
        return _Found(devices, cpu_precision(), _cpu_facts(_THREADS), one_program=True)
    if cores < len(os.sched_getaffinity(0)):  # TensorFlow knows of the affinity, not of a quota
        tf.config.threading.set_intra_op_parallelism_threads(cores)
    return _Found(f"{cores} CPU cores", cpu_precision(), _cpu_facts(None))


def _of_all(hosts: Hosts, found: _Found, gpus: int) -> _Found:
    """What several hosts have found, each the same; a precision that all of them multiply fast.

    Raises:
        UserError: one has another number of GPUs.
    """
    if hosts.count == 1:
        return found
    hosts.compare({"GPUs": gpus})
    precisions = hosts.exchanged("precision", found.precision)
    precision = found.precision
    if any(each[0] != precisions[0][0] for each in precisions):
        precision = ("float32", "the hosts' CPUs differ")
    return found._replace(
        devices=f"{hosts.count} hosts of {found.devices}",
        precision=precision,
        facts=found.facts | {"hosts": str(hosts.count)},
    )


def _instance_over(hosts: Hosts, kind: str, precision: str, description: str) -> Instance:
    """The choices for the devices of several hosts, whose TensorFlow processes this connects."""
    import tensorflow as tf

    from ml.platform.failure import ended_after  # with SageMaker's toolkit, which nothing else here needs
    from ml.platform.job import base_folder

    with socket.create_server(("", 0)) as free:  # which port is free only this host can tell
        port = free.getsockname()[1]
    addresses = [f"[{address}]" if ":" in address else address for address in hosts.addresses]
    ports = hosts.exchanged("port", port)
    workers = [f"{address}:{port}" for address, port in zip(addresses, ports, strict=True)]
    task = {"type": "worker", "index": hosts.number}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    seconds = min(hosts.seconds, _CONNECTING_SECONDS)
    others = ", ".join(f"{name} ({at})" for name, at in zip(hosts.names, workers, strict=True) if name != hosts.name)
    with ended_after(
        base_folder(),
        seconds,
        f"TensorFlow did not connect to {others} within {seconds:g} s: a host has ended, or the network does not let "
        "the job's hosts reach each other on every port; a job on the same checkpoints goes on from the last one",
    ):  # where another host has died, TensorFlow would wait for an hour with Python's lock held
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Instance(
        description=description,
        strategy=strategy,
        precision=precision,
        compile_step=kind == "GPU",
        compile_update=False,
        hosts=hosts,
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
    return _found_in(Path("/proc/cpuinfo"), r"^(?:flags|Features)\s*:(.*)$")


def _found_in(path: Path, pattern: str) -> str:
    """What a pattern's group finds in a file of the system's; empty where it is not there."""
    try:
        found = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1).strip() if found else ""


def _has_gpu() -> bool:
    """Whether the host has given this process an NVIDIA GPU."""
    return Path("/dev/nvidia0").exists()


def _gpu_facts(details: dict[str, Any]) -> dict[str, str]:
    """What results on a GPU depend on to the last bit, as TensorFlow, the driver and the packages say it."""
    major, minor = details.get("compute_capability", (0, 0))
    driver = _found_in(Path("/proc/driver/nvidia/version"), r"Kernel Module.*?\s(\d+\.[\d.]+)\s")
    packages = {"CUDA": "nvidia-cuda-runtime-cu12", "cuBLAS": "nvidia-cublas-cu12", "cuDNN": "nvidia-cudnn-cu12"}
    return {
        "device": str(details.get("device_name", "GPU")),
        "compute capability": f"{major}.{minor}",
        "driver": driver or "unknown",
        **{name: _version(package) for name, package in packages.items()},
        "TensorFlow": _tensorflow_version(),
    }


def _cpu_facts(threads: int | None) -> dict[str, str]:
    """What results on a CPU depend on to the last bit: its instructions choose the kernels.

    Args:
        threads: that XLA's multiplications are cut into; None: others multiply, whose results do not depend on it.
    """
    flags = hashlib.sha256(_cpu_flags().encode()).hexdigest()[:8]
    model = _found_in(Path("/proc/cpuinfo"), r"^model name\s*:(.*)$")
    facts = {"device": model or "CPU", "instructions": flags, "TensorFlow": _tensorflow_version()}
    return facts | ({"threads": str(threads)} if threads else {})


def _tensorflow_version() -> str:
    import tensorflow as tf

    return tf.__version__


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _refuse_idle_gpu(instance_type: str, allow_cpu: bool) -> None:
    evidence = (
        f"the instance type is {instance_type}"
        if _GPU_INSTANCE.match(instance_type)
        else "/dev/nvidia0 is there"
        if _has_gpu()
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
