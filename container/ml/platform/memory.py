"""Whether the job's memory will do, estimated before the training: the kernel kills without a word.

The figures of the estimate were fitted to the peaks of real jobs on a CPU; tests/tools/memory_shapes.py measures again.
On GPUs the network's part is in the device's memory, and the estimate of the host's errs on the safe side.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ml.errors import UserError
from ml.platform.hardware import cpu_precision
from ml.settings import Settings

_PROGRAM = 720_000_000  # TensorFlow, Keras and XLA, once they have compiled the steps
_FOLD = 45_000_000  # an earlier fold's, or the measured model's compiled steps, which stay
_ROW = 70  # bytes a row: the windows' tables on the host and on the device, and what making them takes for a while
_LOOKBACK_ROW = 16  # of each further lookback of a population: lowest price and height, made on the host and copied
_SLOTS = {"adam": 2, "adamw": 2, "nadam": 2, "rmsprop": 1, "sgd": 0}  # an optimizer's numbers a weight
_COPIES = 5  # of the weights: the network, its gradients, the best epoch's, two while a checkpoint or model is written
_WINDOW_PRICE = 8  # bytes a price of a batch: the windows in the precision multiplied in, forwards and backwards
# Numbers a hidden unit and window of a batch, in the precision multiplied in: of every layer its product and
# activation, of the layer under way what is made for a while. Float32 layers of 65,536 units need it all, others less.
_UNIT_OF_EACH_LAYER, _UNIT_OF_ONE_LAYER = 2, 6


def needed_memory(settings: Settings, rows: int, networks: int = 1, lookbacks: int = 1) -> int:
    """Bytes that training takes beside what the process has before it.

    Args:
        settings: the network and the batch.
        rows: of prices to train and to validate on.
        networks: that are trained at once, each of that size.
        lookbacks: how many different ones those have.
    """
    weights = networks * 4 * settings.weights * (_COPIES + 2 * _SLOTS[settings.optimizer])
    batch = min(settings.batch_size, rows)
    precision = cpu_precision()[0] if settings.precision == "auto" else settings.precision
    units = settings.nodes * (_UNIT_OF_EACH_LAYER * settings.layers + _UNIT_OF_ONE_LAYER)
    step = networks * batch * (settings.lookback * _WINDOW_PRICE + units * (4 if precision == "float32" else 2))
    trainings = 2 if settings.refit else 1  # the measured model's windows stay while it is trained again on all rows
    tables = rows * (trainings * _ROW + (lookbacks - 1) * _LOOKBACK_ROW)
    return _PROGRAM + (settings.folds + trainings - 2) * _FOLD + tables + weights + step


def available_memory(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that this process may still take, and what limits it; the container's limit or the machine's memory.

    Args:
        root: where sys/ and proc/ are.

    Returns:
        A number too large to matter and nothing where the system tells neither.
    """
    found = [(1 << 62, "")]
    for folder, limit, usage, cache in _cgroups(root):
        try:
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            # What files keep in memory is given up when it is needed.
            found.append((most - used + _entry(folder / "memory.stat", cache), f"the container's limit of {_gb(most)}"))
        except (OSError, ValueError):  # another version of cgroups, or a limit of "max"
            continue
    try:
        free = 1024 * _entry(root / "proc/meminfo", "MemAvailable:")
        found.append((free, f"the machine's memory of {_gb(1024 * _entry(root / 'proc/meminfo', 'MemTotal:'))}"))
    except (OSError, ValueError):
        pass
    return min(found)


def _cgroups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """The control groups that limit this process: folder, and the names of limit, usage and cache in it.

    A container sees its own as the root. Elsewhere /proc/self/cgroup names the process's, and all above it count.
    """
    own = []
    with contextlib.suppress(OSError):
        own = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    for top, controller, names in (
        (root / "sys/fs/cgroup", "", ("memory.max", "memory.current", "inactive_file")),
        (
            root / "sys/fs/cgroup/memory",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ):
        paths = [path for _, controllers, path in own if controller in controllers.split(",")]
        folders = {top / part.lstrip("/") for path in paths for part in (path, *map(str, Path(path).parents))}
        yield from ((folder, *names) for folder in sorted(folders | {top}))


def check_memory(settings: Settings, rows: int, reading: int = 0, networks: int = 1, lookbacks: int = 1) -> None:
    """Refuses a job that the kernel would kill.

    Called before prices are read, where their number can be foreseen, and again when they are there.

    Args:
        settings: the network and the batch.
        rows: of prices to train and to validate on, known or foreseen.
        reading: bytes that reading them takes for a while; 0: they are read.
        networks: that are trained at once.
        lookbacks: how many different ones those have.

    Raises:
        UserError: it needs more memory than there is, with both figures and what to change.
    """
    available, limit = available_memory()
    if reading > available:
        raise UserError(
            f"reading {rows:,} rows of prices needs about {_gb(reading)} of memory and {_gb(max(available, 0))} are "
            f"left of {limit}; use a larger instance, or fewer files"
        )
    needed = needed_memory(settings, rows, networks, lookbacks)
    several = f"{networks} networks of " if networks > 1 else ""
    if needed > available:
        raise UserError(
            f"training needs about {_gb(needed)} of memory and {_gb(max(available, 0))} are left of "
            f"{limit}: {rows:,} rows, {several}{settings.weights:,} weights with {settings.optimizer}, batch_size "
            f"{settings.batch_size:,} of lookback {settings.lookback:,}; use a larger instance, or a "
            f"smaller batch_size, {'population, ' if several else ''}network or span of dates"
        )


def _entry(path: Path, name: str) -> int:
    """The number behind a name in a file of names and numbers.

    Raises:
        ValueError: it has no such name.
    """
    for line in path.read_text(encoding="ascii").splitlines():
        if line.split()[:1] == [name]:
            return int(line.split()[1])
    raise ValueError(name)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
