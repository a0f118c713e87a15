"""Kills real jobs at random moments and compares what they end with: the same weights, bit for bit.

make chaos N=200
make chaos N=200 ARGS=--universe          jobs on three instruments with gaps
python tests/tools/chaos.py --hosts -n 10

A chain is one job that is killed (SIGKILL) several times, each time at a random moment after its start, from
the import to the writing of the model, and then left to end on the same checkpoints folder.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import pandas as pd

from host_jobs import HostJobs
from job_folder import JobFolder, wait_for
from ml.data.sample_market import sample_market, sample_universe

SETTINGS = {
    "lookback": 60,
    "nodes": 32,
    "epochs": 150,
    "batch_size": 512,
    "checkpoint_seconds": 1,
    "tensorboard": "false",
}


def weights_of(job: JobFolder) -> dict[str, bytes]:
    """The bytes of every weight in the model that a job left, by name."""
    found = {}
    with h5py.File(job.base / "model/fx_btc_jpy_model.h5") as file:
        file["model_weights"].visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    assert len(found) == 6, sorted(found)
    return found


def kill(process: subprocess.Popen, job: JobFolder) -> None:
    if job.image:
        subprocess.run(["docker", "kill", job.name], capture_output=True, check=False)
    process.kill()
    process.communicate()
    while (
        job.image and not subprocess.run(["docker", "inspect", job.name], capture_output=True, check=False).returncode
    ):
        time.sleep(0.05)


def chain(
    expected: dict[str, bytes],
    seconds: float,
    kills: int,
    seed: int,
    folder: Path,
    files: dict[str, pd.DataFrame],
    image: str | None,
) -> list[float]:
    """Kills one job so many times and lets it end; the moments, in seconds after each start.

    Args:
        expected: the weights of an uninterrupted job.
        seconds: which that took.
        files: of prices.
    """
    moments, chance = [], random.Random(seed)
    job = JobFolder(folder, SETTINGS, channel=files, checkpoints=True, image=image)
    while len(moments) < kills:
        process = job.start()
        moment = chance.uniform(0, 1.1 * seconds)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            kill(process, job)
            moments.append(round(moment, 2))
        else:  # it ended before; the model of this run must be right, too, and the job begins anew
            assert process.returncode == 0
            assert weights_of(job) == expected, f"chain of seed {seed} after kills at {moments}"
            for path in (job.base / "checkpoints").rglob("*.ckpt"):
                path.unlink()
    assert job.run() == 0, job.errors
    assert weights_of(job) == expected, f"chain of seed {seed} after kills at {moments}"
    return moments


def universe() -> dict[str, pd.DataFrame]:
    """Three instruments' files; each lacks a week at a place of its own."""
    week = 7 * 1440
    return {
        f"{name}.parquet": market.drop(market.index[1500 + 100 * number : 1500 + 100 * number + week])
        for number, (name, market) in enumerate(sample_universe(3, week + 3500, seed=3))
    }


def chain_of_hosts(
    expected: dict[str, bytes], seconds: float, kills: int, victim: int, seed: int, folder: Path, market
) -> list[float]:
    """Kills one host of two so many times, looks that the other ends within a minute, and lets the job end.

    Args:
        expected: the weights of an uninterrupted job.
        seconds: which that took.
        victim: 0 or 1: the host that is killed.
    """
    moments, chance = [], random.Random(seed)
    hosts = HostJobs(folder, SETTINGS, channel={"p.parquet": market})
    while len(moments) < kills:
        processes = hosts.start()
        wait_for(processes[0], "connected")  # before that no host knows of the other
        moment = chance.uniform(0, 1.1 * seconds)
        try:
            processes[victim].wait(timeout=moment)
        except subprocess.TimeoutExpired:
            processes[victim].kill()
            killed = time.monotonic()
            codes = hosts.end()
            assert time.monotonic() - killed < 60, f"host {victim + 1} was killed after {moment} s"
            over = "SUCCESS" in hosts.jobs[1 - victim].errors  # both had come to their end
            assert codes[1 - victim] == (0 if over else 1), hosts.errors
            moments.append(round(moment, 2))
        else:
            assert hosts.end() == [0, 0], hosts.errors
            assert weights_of(hosts.first) == expected, f"chain of seed {seed} after kills at {moments}"
            for path in (hosts.first.base / "checkpoints").rglob("*.ckpt"):
                path.unlink()
    assert hosts.run() == [0, 0], hosts.errors
    assert weights_of(hosts.first) == expected, f"chain of seed {seed} after kills at {moments}"
    return moments


def run_hosts(kills: int, seed: int) -> int:
    """Kills each host of two so many times; returns how many kills were survived bit for bit."""
    market = sample_market(rows=6000, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        whole = HostJobs(Path(folder) / "whole", SETTINGS, channel={"p.parquet": market})
        wait_for(whole.start()[0], "connected")
        began = time.monotonic()
        assert whole.end() == [0, 0], whole.errors
        seconds, expected = time.monotonic() - began, weights_of(whole.first)
        done = 0
        for victim in (0, 1):
            moments = chain_of_hosts(
                expected, seconds, kills, victim, seed + victim, Path(folder) / f"chain-{victim}", market
            )
            done += len(moments)
            print(
                f"algo-{victim + 1}, seed {seed + victim}: ended everywhere within 60 s, and the same weights after "
                f"kills at {', '.join(map(str, moments))} s of {seconds:.1f} s",
                flush=True,
            )
    return done


def run(kills: int, chains: int, seed: int, image: str | None = None, *, of_universe: bool = False) -> int:
    """Kills jobs so many times in so many chains; returns how many kills were survived bit for bit."""
    files = universe() if of_universe else {"p.parquet": sample_market(rows=6000, seed=3)}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        whole = JobFolder(folder / "whole", SETTINGS, channel=files, image=image)
        began = time.monotonic()
        assert whole.run() == 0, whole.errors
        seconds, expected = time.monotonic() - began, weights_of(whole)
        done = 0
        for number in range(chains):
            share = kills * (number + 1) // chains - kills * number // chains
            moments = chain(expected, seconds, share, seed + number, folder / f"chain-{number}", files, image)
            done += len(moments)
            print(
                f"{'docker' if image else 'process'}, seed {seed + number}: the same weights after kills at "
                f"{', '.join(map(str, moments))} s of {seconds:.1f} s",
                flush=True,
            )
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--universe", action="store_true", help="jobs on three instruments with gaps")
    parser.add_argument("--hosts", action="store_true", help="of a job of two hosts, each of them so many times")
    parser.add_argument("--image", help="also in containers of it, for half of the kills")
    arguments = parser.parse_args()
    if arguments.hosts:
        survived = run_hosts(arguments.n, arguments.seed)
        print(f"{survived} of {2 * arguments.n} kills of a host: the same weights, bit for bit")
        sys.exit(survived != 2 * arguments.n)
    inside = arguments.n // 2 if arguments.image else 0
    survived = 0
    for kills, image in ((arguments.n - inside, None), (inside, arguments.image)):
        if kills:
            survived += run(kills, max(1, kills // 5), arguments.seed, image, of_universe=arguments.universe)
    print(f"{survived} of {arguments.n} kills: the same weights, bit for bit")
    sys.exit(survived != arguments.n)
