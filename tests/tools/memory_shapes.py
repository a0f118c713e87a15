"""How much memory jobs of many shapes take, against what is foreseen; and jobs inside limits that are too small.

    python tests/tools/memory_shapes.py            estimate and peak of each shape
    python tests/tools/memory_shapes.py limits     each shape inside 70, 100 and 130 % of its estimate: refused or
                                                   finished, never killed (as root: it makes cgroups)

Peaks are those of real jobs, beside what the process held when it was asked whether its memory will do.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from job_folder import TRAIN, JobFolder
from ml.data.sample_market import sample_market

ROWS = 30_000
# Settings of a job, and the rows of its prices where they are not ROWS.
SHAPES: dict[str, dict[str, int | float | str]] = {
    "default": {},
    "original": {"preset": "original", "epochs": 1},
    "one narrow layer": {"nodes": 16, "layers": 1},
    "widest": {"nodes": 65536, "layers": 1},
    "wide": {"nodes": 16384, "layers": 1},
    "wide and deep": {"nodes": 3000, "layers": 3},
    "deep": {"nodes": 256, "layers": 16},
    "three folds": {"folds": 3},
    "eight folds": {"folds": 8, "lookback": 60},
    "eight folds of the original": {"folds": 8, "lookback": 60, "nodes": 1024},
    "batch larger than the data": {"batch_size": 1048576},
    "batch larger than the data, wide": {"batch_size": 65536, "nodes": 2048},
    "small batches, few rows": {"batch_size": 64, "rows": 8000},
    "long windows": {"lookback": 4000, "rows": 60_000, "horizon": 50},
    "long windows, large batch": {"lookback": 1440, "batch_size": 8192},
    "sgd": {"nodes": 3000, "optimizer": "sgd"},
    "rmsprop": {"nodes": 3000, "optimizer": "rmsprop"},
    "no validation": {"validation_fraction": 0, "nodes": 2048},
    "many rows": {"rows": 1_000_000, "nodes": 16, "layers": 1, "batch_size": 8192},
    "float32": {"precision": "float32", "nodes": 2048, "batch_size": 8192},
    "widest in float32": {"precision": "float32", "nodes": 65536, "layers": 1},
    "original in float32": {"precision": "float32", "preset": "original", "epochs": 1},
    "bfloat16": {"precision": "bfloat16", "nodes": 2048, "batch_size": 8192},
}

_BEFORE = 250_000_000  # bytes that a process has when it is asked

_MEASURED = """
import re, ml.platform.memory
def resident(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
def check(settings, rows, **more):
    global before
    before, needed = resident("VmRSS"), ml.platform.memory.needed_memory(settings, rows, **more)
    print("needed", needed, flush=True)
ml.platform.memory.check_memory = check
import train
train.main()
print("took", resident("VmHWM") - before, flush=True)
"""


def job_of(shape: dict[str, int | float | str], base: Path) -> JobFolder:
    """A job of a shape, on simulated prices."""
    settings = {"epochs": 1} | {name: value for name, value in shape.items() if name != "rows"}
    prices = sample_market(rows=int(shape.get("rows", ROWS)), seed=3)
    return JobFolder(base, settings, channel={"p.parquet": prices}, checkpoints=True)


def measured(shape: dict[str, int | float | str], base: Path) -> tuple[int, int]:
    """Bytes that are foreseen and bytes that a job of a shape takes, both beside what it had when it was checked."""
    job = job_of(shape, base)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED],
        env=os.environ | {"SAGEMAKER_BASE_DIR": str(job.base), "PYTHONPATH": str(TRAIN.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    lines = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("needed ", "took ")))
    return int(lines["needed"]), int(lines["took"])


@contextlib.contextmanager
def limit_of(size: int) -> Iterator[Path]:
    """A cgroup, of version 1 or 2, whose processes together may have so many bytes."""
    root = Path("/sys/fs/cgroup/memory")
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if root.is_dir() else ("memory.max",)
    folder = (root if root.is_dir() else Path("/sys/fs/cgroup")) / f"shapes-{os.getpid()}"
    folder.mkdir()
    try:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).write_text(str(size))
        yield folder
    finally:
        folder.rmdir()


def outcome(shape: dict[str, int | float | str], base: Path, size: int) -> str:
    """What becomes of a job inside a limit: finished, refused, or killed."""
    job = job_of(shape, base)
    with limit_of(size) as folder:
        done = subprocess.run(
            [sys.executable, str(TRAIN)],
            env=os.environ | {"SAGEMAKER_BASE_DIR": str(job.base)},
            preexec_fn=lambda: (folder / "cgroup.procs").write_text(str(os.getpid())),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return "finished"
    return "refused" if "of memory and" in done.stderr else f"KILLED ({done.returncode}): {done.stderr[-300:]}"


def main() -> None:
    names = [name for name in SHAPES if len(sys.argv) < 3 or name in sys.argv[2:]]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            needed, took = measured(SHAPES[name], Path(folder) / "measured")
            row = {"shape": name, "needed": needed, "took": took, "ratio": round(needed / took, 2)}
            if sys.argv[1:2] == ["limits"]:
                for share in (0.7, 1.0, 1.3):
                    size = int(share * (needed + _BEFORE))
                    row[f"{share:.0%}"] = outcome(SHAPES[name], Path(folder) / f"{share}", size)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
