"""What a training on many instruments costs: seconds and peak memory of whole jobs, reading and judging included.

python tests/tools/universe.py 1 10 100              a year of minutes each, one epoch
python tests/tools/universe.py 10 --rows 100000      fewer
"""

import argparse
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


def cost(instruments: int, rows: int = YEAR) -> dict[str, float]:
    """Seconds, peak memory and their share a bar of a job on so many instruments with so many minutes each."""
    from ml.data.sample_market import sample_market, sample_universe

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for inner in ("input/config", "input/data/train", "model", "output/data"):
            (base / inner).mkdir(parents=True)
        markets = sample_universe(instruments, rows) if instruments > 1 else iter([("ONE", sample_market(rows))])
        for name, market in markets:
            market[["mid"]].to_parquet(base / f"input/data/train/{name}.parquet")
        (base / "input/config/hyperparameters.json").write_text(
            json.dumps({name: str(value) for name, value in SETTINGS.items()})
        )
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
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = []
        marks = {}
        for line in process.stdout:
            lines.append(line)
            for mark in ("read:", "running:", "epoch=", "performance", "report:"):
                if line.startswith(mark):
                    marks[mark.rstrip(":=")] = time.perf_counter() - began
        process.wait()
        if process.returncode:
            raise RuntimeError("".join(lines[-5:]))
        seconds, peak = time.perf_counter() - began, float((base / "peak").read_text())
    bars = instruments * rows
    speed = re.findall(r"windows_per_second=(\S+)", "".join(lines))
    return {
        "bars": bars,
        "seconds": seconds,
        "microseconds_a_bar": 1e6 * seconds / bars,
        "peak_memory_GiB": peak,
        "windows_per_second": float(speed[-1]),
        **{f"until_{mark}": at for mark, at in marks.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instruments", nargs="+", type=int)
    parser.add_argument("--rows", type=int, default=YEAR, help="minutes of each (default: a year)")
    options = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY / "container"))
    for instruments in sorted(options.instruments):
        found = cost(instruments, options.rows)
        print(f"{instruments} instruments: {json.dumps({name: round(value, 3) for name, value in found.items()})}")


if __name__ == "__main__":
    main()
