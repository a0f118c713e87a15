"""What a training on many instruments costs: seconds and peak memory of whole jobs, reading and judging included.

python tests/tools/universe.py 1 10 100              a year of minutes each, one epoch
python tests/tools/universe.py 10 --rows 100000      fewer
python tests/tools/universe.py 100 --limit 6         inside a limit of 6 GB of memory (as root: it makes a cgroup)

The last line is what a bar takes of the memory while the training runs, from the smallest and the largest job.
On a CPU that holds what a GPU would keep on its own: price, lowest price and height of a window, and label, 13 bytes.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
YEAR = 525_600  # minutes
SETTINGS = {"lookback": 60, "nodes": 16, "epochs": 1, "batch_size": 65_536}
MARKS = ("read:", "running:", "epoch=", "performance", "report:")


def cost(instruments: int, rows: int = YEAR, limit: float | None = None) -> dict[str, float]:
    """Seconds, memory and their share a bar of a job on so many instruments with so many minutes each.

    Args:
        instruments: how many.
        rows: minutes of each.
        limit: GB of memory that the job may have; None: all there is.
    """
    with tempfile.TemporaryDirectory() as folder, limited(limit) as within:
        base = Path(folder)
        write_job(base, instruments, rows)
        began = time.perf_counter()
        process = subprocess.Popen(
            [
                sys.executable,
                REPOSITORY / "tests/tools/peak_memory.py",
                base / "peak",
                sys.executable,
                REPOSITORY / "container/bin/train",
            ],
            env=os.environ | {"SAGEMAKER_BASE_DIR": str(base), "TF_CPP_MIN_LOG_LEVEL": "2"},
            preexec_fn=within,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines, figures = [], {}
        for line in process.stdout:
            lines.append(line)
            for mark in MARKS:
                if line.startswith(mark):
                    name = mark.rstrip(":=")
                    figures[f"until_{name}"] = time.perf_counter() - began
                    figures[f"resident_GiB_at_{name}"] = resident_of_child(process.pid) / 2**30
        if process.wait():
            raise RuntimeError("".join(lines[-5:]))
        seconds, peak = time.perf_counter() - began, float((base / "peak").read_text())
    speed = re.findall(r"windows_per_second=(\S+)", "".join(lines))
    return {
        "bars": instruments * rows,
        "seconds": seconds,
        "microseconds_a_bar": 1e6 * seconds / (instruments * rows),
        "peak_memory_GiB": peak,
        "windows_per_second": float(speed[-1]),
        **figures,
    }


def write_job(base: Path, instruments: int, rows: int) -> None:
    """A job's folder with a file of prices for each instrument."""
    from ml.data.sample_market import sample_market, sample_universe

    for inner in ("input/config", "input/data/train", "model", "output/data"):
        (base / inner).mkdir(parents=True)
    markets = sample_universe(instruments, rows) if instruments > 1 else iter([("ONE", sample_market(rows))])
    for name, market in markets:
        market[["mid"]].to_parquet(base / f"input/data/train/{name}.parquet")
    (base / "input/config/hyperparameters.json").write_text(
        json.dumps({name: str(value) for name, value in SETTINGS.items()})
    )


@contextlib.contextmanager
def limited(gigabytes: float | None):
    """What a process calls to be inside a limit of memory; None: there is no limit."""
    if gigabytes is None:
        yield None
        return
    from memory_shapes import limit_of

    with limit_of(int(gigabytes * 1e9)) as folder:
        yield lambda: (folder / "cgroup.procs").write_text(str(os.getpid()))


def resident_of_child(pid: int) -> int:
    """Bytes of memory that the only child of a process holds; 0 where it has ended."""
    try:
        child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{child}/status").read_text())[1])
    except (OSError, IndexError, TypeError):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instruments", nargs="+", type=int)
    parser.add_argument("--rows", type=int, default=YEAR, help="minutes of each (default: a year)")
    parser.add_argument("--limit", type=float, metavar="GB", help="memory that a job may have")
    options = parser.parse_args()
    sys.path[:0] = [str(REPOSITORY / folder) for folder in ("container", "tests/support")]
    found = []
    for instruments in sorted(options.instruments):
        found.append(cost(instruments, options.rows, options.limit))
        print(
            f"{instruments} instruments: {json.dumps({name: round(value, 3) for name, value in found[-1].items()})}",
            flush=True,
        )
    least, *_, most = found if len(found) > 1 else [None, None]
    if least and most:
        held = (most["resident_GiB_at_running"] - least["resident_GiB_at_running"]) * 2**30
        print(f"a bar takes {held / (most['bars'] - least['bars']):.1f} bytes while the training runs")


if __name__ == "__main__":
    main()
