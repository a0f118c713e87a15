"""Benchmarks of reading, of whole jobs and of several hosts. A public function is a case."""

import json
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench_parts import BATCH, LOOKBACK, NODES, YEAR, has_gpu, history, in_turns, ratio, steps_of

REPOSITORY = Path(__file__).resolve().parents[2]
MILESTONES = {  # how a line begins, and what it tells
    "training on ": "seconds_to_prices_read_and_labelled",
    "device:": "seconds_to_tensorflow_imported",
    "running:": "seconds_to_first_step_done",
    "epoch=1/": "seconds_to_first_epoch_line",
}


def reading():
    """Reading and checking three years of prices: a KYDB of files against one Parquet file"""
    import kydb

    from ml.data.sample_market import sample_market
    from ml.data.sources import read_channel, read_kydb
    from ml.timeseries import time_series

    with tempfile.TemporaryDirectory() as folder:
        frame = sample_market(rows=3 * YEAR, seed=1)[["mid"]]
        channel = Path(folder) / "channel"
        channel.mkdir()
        frame.to_parquet(channel / "prices.parquet")
        time_series(kydb.connect(f"files:/{folder}/kydb"), "/prices").replace(frame)
        times = in_turns(
            parquet=lambda: read_channel(channel), kydb=lambda: read_kydb(f"files:/{folder}/kydb", "/prices")
        )
    return {
        "parquet_seconds": min(times["parquet"]),
        "kydb_seconds": min(times["kydb"]),
        "times_the_seconds_of_parquet": ratio(times["kydb"], times["parquet"]),
    }


def whole_job():
    """A job as SageMaker starts it: three years of prices in a Parquet channel, original network, one epoch"""
    with tempfile.TemporaryDirectory() as folder:
        _job_folder(Path(folder))
        peak = Path(folder, "peak")
        times, output = _run(Path(folder), sys.executable, REPOSITORY / "tests/tools/peak_memory.py", peak)
        peak_memory = float(peak.read_text())
    speed = float(re.search(r"windows_per_second=(\S+)", output).group(1))
    return {**times, "windows_per_second_in_the_epoch": speed, "peak_memory_GiB": peak_memory}


def whole_job_in_docker():
    """The same as a container of the image (make image), up to the first training steps"""
    if subprocess.run(["docker", "image", "inspect", "position-trainer"], capture_output=True, check=False).returncode:
        return {"skipped": "there is no image position-trainer: make image"}
    with tempfile.TemporaryDirectory() as folder:
        _job_folder(Path(folder))
        began = time.perf_counter()
        process = subprocess.Popen(
            ["docker", "run", "--rm", "--network", "none", "--volume", f"{folder}:/opt/ml", "position-trainer"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        times = _times_of(process.stdout, began, last="running:")[0]
        process.terminate()
        process.wait()
        return times


def start_up():
    """A short job of the default settings on 20,000 rows: until its first step and its end; again with kept programs"""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "again"):
            base = Path(folder, name)
            _job_folder(base, rows=20_000, settings={"epochs": "2"})
            times, _ = _run(base, POSITION_TRAINER_XLA_CACHE=str(Path(folder, "kept")))
            result |= {f"{name}_{milestone}": value for milestone, value in times.items()}
    return result


def _run(base: Path, *before: str | Path, **environment: str) -> tuple[dict[str, float], str]:
    """Runs the job of a folder: seconds to its milestones and to its end, and what it printed.

    Args:
        base: the folder.
        before: the command that starts the job's own.
        environment: of the job, beside this process's.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [*before, sys.executable, REPOSITORY / "container/bin/train"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"SAGEMAKER_BASE_DIR": str(base)} | environment,
        text=True,
    )
    times, output = _times_of(process.stdout, began)
    if process.wait() or len(times) < len(MILESTONES):
        raise RuntimeError(f"the job failed, or its lines are called otherwise now: {output}")
    return times | {"seconds": time.perf_counter() - began}, output


def _times_of(lines, began: float, last: str | None = None) -> tuple[dict[str, float], str]:
    """Seconds from `began` to the job's milestones as their lines arrive, to the `last`, and all that was printed."""
    times, output = {}, []
    for line in lines:
        output.append(line)
        for start, name in MILESTONES.items():
            if line.startswith(start):
                times[name] = time.perf_counter() - began
        if last and line.startswith(last):
            break
    return times, "".join(output)


def _job_folder(base: Path, rows: int = 3 * YEAR, settings: dict[str, str] | None = None) -> None:
    """A job on plain prices in a Parquet channel: the original network, where `settings` do not say otherwise."""
    from ml.data.sample_market import sample_market

    (base / "input/config").mkdir(parents=True)
    (base / "input/data/train").mkdir(parents=True)
    sample_market(rows=rows, seed=1).to_parquet(base / "input/data/train/prices.parquet")
    settings = (settings or {"preset": "original", "epochs": "1", "batch_size": str(BATCH)}) | {"allow_cpu": "true"}
    (base / "input/config/hyperparameters.json").write_text(json.dumps(settings))


def universe():
    """A job on a year of minutes of each of 1, 10 and 100 instruments: time a bar, and memory"""
    from universe import cost

    return {
        f"{name}_of_{instruments}_instruments": value
        for instruments in (1, 10, 100)
        for name, value in cost(instruments).items()
        if name in ("microseconds_a_bar", "seconds", "peak_memory_GiB")
    }


def hosts():
    """One network on two hosts of half the cores each, against one such host beside another that is as busy"""
    os.environ["PYTHONPATH"] = str(REPOSITORY / "container")
    if len(os.sched_getaffinity(0)) < 2 or has_gpu():
        return {"skipped": "it needs two cores, and no GPU"}
    result = {}
    networks = {"default": {}, "original": {"lookback": LOOKBACK, "nodes": NODES, "batch_size": 4400, "centred": False}}
    for name, settings in networks.items():
        batch = settings.get("batch_size", 1024)
        one, two = _host_speeds(1, settings), _host_speeds(2, settings)
        half = _host_speeds(1, settings | {"batch_size": batch // 2})
        result |= {
            f"{name}_windows_per_second_of_one": one,
            f"{name}_windows_per_second_of_two": two,
            f"times_as_fast_{name}": two / one,
            f"share_in_collectives_{name}": max(0.0, 1 - two / (2 * half)),
            f"{name}_milliseconds_in_collectives_a_step": 1000 * (batch / two - batch / 2 / half),
        }
    return result


def _host_speeds(count: int, settings: dict) -> float:
    """Windows a second of two hosts, half of the cores each, as one training or as two side by side (`count` 1)."""
    cores = sorted(os.sched_getaffinity(0))
    halves = [set(cores[: len(cores) // 2]), set(cores[len(cores) // 2 :])]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, processes) as pool:
        speeds = [
            pool.submit(_host_speed, number if count == 2 else 0, count, port, halves[number], settings)
            for number in range(2)
        ]
        return statistics.mean(speed.result() for speed in speeds)


def _host_speed(number: int, count: int, port: int, cores: set[int], settings: dict) -> float:
    """Windows a second of a training, measured by one of its hosts, on some of this machine's cores.

    Args:
        number: of the host, from 0.
        count: of hosts that train together.
        port: of the first one.
        cores: that this process may use.
        settings: that are not the default's.
    """
    os.sched_setaffinity(0, cores)
    from ml.host import Host
    from ml.learn.meeting import joined
    from ml.learn.network import build_network
    from ml.learn.trainer import Trainer
    from ml.platform.hardware import find_instance
    from ml.settings import Settings
    from ml.train_sequence import TrainSequence

    chosen = Settings(**settings)
    batch = chosen.batch_size
    calls = max(4, min(400, int(1e11 / (batch * chosen.weights))))  # some seconds on a core
    places = [Host(f"algo-{each + 1}", "127.0.0.1", port) for each in range(count)]
    with joined(places, places[number].name, "bench", 300, lambda: False, sys.exit) as hosts:
        instance = find_instance("auto", allow_cpu=True, hosts=hosts)
        sequence = TrainSequence(history(chosen.lookback + calls * batch), chosen.lookback, batch)
        with instance.strategy.scope():
            model = build_network(chosen)
        training = Trainer(model, chosen, instance, sequence, None)
        run, windows = steps_of(training, sequence, batch, calls * batch)
        return windows / min(in_turns(run=run)["run"])
