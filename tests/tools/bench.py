"""Benchmarks: one command, one table, everything measured in one run, each case in a process of its own.

    make bench                                  everything; runs/bench/bench.json and bench.png beside it
    python tests/tools/bench.py step_bfloat16 rows    some cases
    BENCH_PRICES=FOLDER python tests/tools/bench.py learning_curves     a folder with a year of real prices; an hour

Machines are noisy, so what is compared is measured in turns inside one process, and ratios are medians of
the turns' ratios. Prices are the simulated market's, so that anyone gets the same work.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "runs" / "bench"
YEAR, LOOKBACK, NODES, BATCH = 527_040, 1440, 1024, 4400
TURNS = 5
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def history(rows: int):
    from ml.data.sample_market import sample_market
    from ml.optimal_position import optimal_positions

    return optimal_positions(sample_market(rows=rows + 300, seed=1), horizon=300).iloc[:rows]


def seconds(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_turns(**functions) -> dict[str, list[float]]:
    """Seconds of each function in each of TURNS turns, after one turn that warms up."""
    for function in functions.values():
        function()
    turns = [{name: seconds(function) for name, function in functions.items()} for _ in range(TURNS)]
    return {name: [turn[name] for turn in turns] for name in functions}


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def trainer(sequence, **settings):
    """A trainer of the original network, where `settings` do not say otherwise, on a sequence."""
    from ml.learn.network import build_network
    from ml.learn.trainer import Trainer
    from ml.platform.hardware import find_instance
    from ml.settings import PRESETS, Settings

    settings = Settings(
        **PRESETS["original"] | {"lookback": sequence.lookback_period, "batch_size": sequence.batch_size, **settings}
    )
    instance = find_instance(settings.precision, allow_cpu=True, weights=settings.weights)
    return Trainer(build_network(settings), settings, instance, sequence, None)


def steps_of(training, sequence, batch_size: int, windows: int):
    """A function that trains on about `windows` windows, in calls as the job makes them."""
    from ml.learn.loop import Sums

    training.loop.begin_epoch(sequence.order(0), training.dropout_keys(0))
    steps = max(1, windows // batch_size)

    def run():
        step, sums = 0, Sums()
        while step < steps:
            done, sums = training.loop.train(step, steps, sums)
            step += done

    return run, steps * batch_size


def has_gpu() -> bool:
    from ml.platform.tensorflow_import import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def five_multiplications(batch: int, precision: str, times: int):
    """The five large multiplications of a step and nothing else, `times` times: the ceiling."""
    import tensorflow as tf

    def matrix(*shape):
        return tf.cast(tf.random.stateless_normal(shape, (1, 2)), precision)

    windows, first, second = matrix(batch, LOOKBACK), matrix(LOOKBACK, NODES), matrix(NODES, NODES)
    hidden, upstream = matrix(batch, NODES), matrix(batch, NODES)

    @tf.function
    def run():
        total = tf.zeros((), precision)
        for _ in tf.range(times):
            for product in (
                windows @ first,
                hidden @ second,
                tf.matmul(windows, upstream, transpose_a=True),
                tf.matmul(hidden, upstream, transpose_a=True),
                tf.matmul(upstream, second, transpose_b=True),
            ):
                total += product[0, 0]
        return total

    return run


def against_ceiling(precision: str):
    import tensorflow as tf

    from ml.train_sequence import TrainSequence

    steps = 330 if has_gpu() else 14  # a GPU's take a fraction of a millisecond each
    sequence = TrainSequence(history(LOOKBACK + steps * BATCH), LOOKBACK, BATCH)
    training = trainer(sequence, precision=precision)
    run, windows = steps_of(training, sequence, BATCH, steps * BATCH)
    ceiling = five_multiplications(BATCH, precision, steps)
    starts = tf.constant(sequence.order(0)[: steps * BATCH].reshape(steps, BATCH))

    @tf.function
    def cut_windows():
        total = tf.zeros((), precision)
        for step in tf.range(steps):
            windows, _ = training.steps.windows(starts[step])
            total += windows[0, 0]
        return total

    times = in_turns(step=run, ceiling=ceiling, windows=cut_windows)
    return {
        "windows_per_second": windows / min(times["step"]),
        "ceiling_windows_per_second": windows / min(times["ceiling"]),
        "share_of_ceiling": ratio(times["ceiling"], times["step"]),
        "share_spent_cutting_windows": ratio(times["windows"], times["step"]),
    }


@case
def step_bfloat16():
    """Training step of the original network, bfloat16, batch 4400, against its five multiplications alone"""
    return against_ceiling("bfloat16")


@case
def step_float32():
    """The same in float32"""
    return against_ceiling("float32")


def row_by_row(frame, batch_size, **options):
    """The plain way: a window at a time, cut from a frame and scaled with pandas."""
    import keras

    class RowByRow(keras.utils.PyDataset):
        def __init__(self):
            super().__init__(**options)
            self.order = np.random.default_rng(0).permutation(len(frame) - LOOKBACK + 1)

        def __len__(self):
            return len(self.order) // batch_size

        def __getitem__(self, index):
            windows, labels = [], []
            for start in self.order[index * batch_size : (index + 1) * batch_size]:
                prices = frame["mid"].iloc[start : start + LOOKBACK]
                windows.append(((prices - prices.min()) / (prices.max() - prices.min())).to_numpy(np.float32))
                labels.append(int(frame["position"].iloc[start + LOOKBACK - 1] > 0))
            return np.array(windows), np.array(labels)

    return RowByRow()


@case
def data_path_on_one_core():
    """Cutting and scaling batches on one core: seq[i] against the row-by-row Sequence"""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from ml.train_sequence import TrainSequence

    frame = history(150_000).reset_index()
    ours, theirs = TrainSequence(frame, LOOKBACK, BATCH), row_by_row(frame, 100)

    def read(sequence):  # and let go of each batch, as Keras does
        for i in range(10):
            sequence[i]

    times = in_turns(ours=lambda: read(ours), theirs=lambda: read(theirs))
    per_window = {"ours": [t / (10 * BATCH) for t in times["ours"]], "theirs": [t / 1000 for t in times["theirs"]]}
    return {
        "windows_per_second": 1 / min(per_window["ours"]),
        "row_by_row_windows_per_second": 1 / min(per_window["theirs"]),
        "times_as_fast": ratio(per_window["theirs"], per_window["ours"]),
    }


def compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@contextlib.contextmanager
def quiet_keras():
    import keras

    from ml.learn.network import build_network
    from ml.settings import Settings

    yield keras, compiled(build_network(Settings(lookback=LOOKBACK, nodes=NODES, centred=False)))


@case
def other_pipelines():
    """Whole training at batch 4400, auto precision, against fit on row-by-row windows and on Keras' own dataset"""
    from ml.train_sequence import TrainSequence

    frame = history(100_000)
    sequence = TrainSequence(frame, LOOKBACK, BATCH)
    run, windows = steps_of(trainer(sequence), sequence, BATCH, 10 * BATCH)
    small = frame.iloc[: LOOKBACK + 2 * 2200 - 1].reset_index()
    with quiet_keras() as (keras, model):
        plain = row_by_row(small, 2200, workers=2, use_multiprocessing=True)
        prices = frame["mid"].to_numpy(np.float32)
        labels = (frame["position"].to_numpy()[LOOKBACK - 1 :] > 0).astype(int)

        def scaled(windows, labels):
            low = keras.ops.min(windows, 1, keepdims=True)
            return (windows - low) / (keras.ops.max(windows, 1, keepdims=True) - low + 1e-9), labels

        dataset = keras.utils.timeseries_dataset_from_array(
            prices[: LOOKBACK + 4 * BATCH - 1], labels[: 4 * BATCH], LOOKBACK, batch_size=BATCH, shuffle=True
        )
        dataset = dataset.map(scaled, num_parallel_calls=2).prefetch(2)
        times = in_turns(
            ours=run, rows=lambda: model.fit(plain, verbose=0), keras=lambda: model.fit(dataset, verbose=0)
        )
    each = {
        name: [t / count for t in times[name]]
        for name, count in (("ours", windows), ("rows", 4400), ("keras", 4 * BATCH))
    }
    return {
        "windows_per_second": 1 / min(each["ours"]),
        "row_by_row_windows_per_second": 1 / min(each["rows"]),
        "times_row_by_row": ratio(each["rows"], each["ours"]),
        "timeseries_dataset_from_array_windows_per_second": 1 / min(each["keras"]),
        "times_timeseries_dataset_from_array": ratio(each["keras"], each["ours"]),
    }


@case
def batch_32():
    """Batch 32, auto precision, against plain fit on seq[i]"""
    from ml.train_sequence import TrainSequence

    frame = history(40_000)
    sequence = TrainSequence(frame, LOOKBACK, 32)
    run, windows = steps_of(trainer(sequence), sequence, 32, 400 * 32)
    with quiet_keras() as (_, model):
        few = TrainSequence(frame.iloc[: LOOKBACK + 200 * 32 - 1], LOOKBACK, 32)
        times = in_turns(ours=run, fit=lambda: model.fit(few, verbose=0))
    each = {"ours": [t / windows for t in times["ours"]], "fit": [t / (200 * 32) for t in times["fit"]]}
    return {
        "windows_per_second": 1 / min(each["ours"]),
        "fit_windows_per_second": 1 / min(each["fit"]),
        "times_as_fast": ratio(each["fit"], each["ours"]),
    }


@case
def pytorch():
    """Whole training at batch 4400, auto precision, against PyTorch with the same network and windows"""
    if not importlib.util.find_spec("torch"):
        return {"skipped": "PyTorch is not installed: pip install -r tests/requirements-torch.txt"}
    import torch

    from ml.train_sequence import TrainSequence

    cuda = torch.cuda.is_available()
    device, ours, theirs = ("cuda", 330, 330) if cuda else ("cpu", 10, 4)
    sequence = TrainSequence(history(LOOKBACK + max(20, ours) * BATCH), LOOKBACK, BATCH)
    run, windows = steps_of(trainer(sequence), sequence, BATCH, ours * BATCH)
    prices, low, height, labels = (
        torch.from_numpy(values).to(device)
        for values in (sequence.prices, sequence.low, sequence.height, sequence.labels)
    )
    every_window = prices.unfold(0, LOOKBACK, 1)
    order = torch.from_numpy(sequence.order(0).astype(np.int64)).to(device)

    def step_of(autocast: bool, *, compiled: bool = False):
        """A function that trains a network of its own on the windows that begin at the given rows."""
        model = torch.nn.Sequential(
            torch.nn.Linear(LOOKBACK, NODES),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(NODES, NODES),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(NODES, 2),
        ).to(device)
        optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=cuda)

        def loss_of(starts):
            batch = (every_window[starts] - low[starts, None]).float() / height[starts, None]
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                return torch.nn.functional.cross_entropy(model(batch).float(), labels[starts])

        loss_of = torch.compile(loss_of) if compiled else loss_of

        def step(starts):
            optimizer.zero_grad(set_to_none=True)
            loss_of(starts).backward()
            optimizer.step()

        return step

    def all_steps(step):
        for number in range(theirs):
            step(order[number * BATCH : (number + 1) * BATCH])
        if cuda:
            torch.cuda.synchronize()

    def replayed(step):
        """The step as a CUDA graph, which is launched as a whole."""
        starts, stream = order[:BATCH].clone(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(starts)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(starts)

        def replay(rows):
            starts.copy_(rows)
            graph.replay()

        return replay

    rivals = {"float32": step_of(False), "autocast": step_of(True)}
    if cuda:
        rivals["compiled"] = step_of(True, compiled=True)
        rivals["compiled_cuda_graph"] = replayed(step_of(True, compiled=True))
    times = in_turns(ours=run, **{name: functools.partial(all_steps, step) for name, step in rivals.items()})
    each = {name: [t / (windows if name == "ours" else theirs * BATCH) for t in times[name]] for name in times}
    best = min(rivals, key=lambda name: min(each[name]))
    return {
        "windows_per_second": 1 / min(each["ours"]),
        **{f"torch_{name}_windows_per_second": 1 / min(each[name]) for name in rivals},
        "times_torch_best": ratio(each[best], each["ours"]),
    }


def epoch_seconds(rows: int, lookback: int, batch_size: int, windows: int) -> float:
    """Windows a second over `windows` windows of an epoch, best of three."""
    from ml.train_sequence import TrainSequence

    sequence = TrainSequence(history(rows), lookback, batch_size)
    run, count = steps_of(trainer(sequence), sequence, batch_size, windows)
    run()
    return count / min(seconds(run) for _ in range(3))


@case
def batch_size():
    """Windows a second over batch sizes"""
    return {
        str(size): epoch_seconds(100_000, LOOKBACK, size, max(12_800, 3 * size))
        for size in (32, 128, 512, 1024, 4096, 8192, 16384)
    }


@case
def lookback():
    """Windows a second over lookbacks, batch 4400"""
    return {str(length): epoch_seconds(100_000, length, BATCH, 6 * BATCH) for length in (60, 240, 720, 1440, 2880)}


@case
def population():
    """Eight default networks at once, windows a second in all, against one alone; they share windows, or differ more"""
    from ml.learn.members import members_of
    from ml.learn.population import PopulationTrainer
    from ml.platform.hardware import find_instance
    from ml.settings import Settings
    from ml.train_sequence import TrainSequence

    base = Settings()
    steps = 1000 if has_gpu() else 64
    frame = history(base.lookback + steps * base.batch_size - 1)
    sequence = TrainSequence(frame, base.lookback, base.batch_size, seed=base.seed)
    held_out = TrainSequence(frame.iloc[: base.lookback + 1000], base.lookback, base.batch_size, enable_shuffle=False)
    one, windows = steps_of(
        trainer(sequence, **dataclasses.asdict(base)), sequence, base.batch_size, sequence.num_windows
    )
    rates = [{"learning_rate": rate} for rate in np.geomspace(1e-4, 1e-2, 8).tolist()]
    kinds = {
        "learning_rates": rates,
        "seeds": [point | {"seed": seed} for seed, point in enumerate(rates)],
        "lookbacks": [point | {"lookback": base.lookback - 8 * i} for i, point in enumerate(rates)],
        "64_learning_rates": [{"learning_rate": rate} for rate in np.geomspace(1e-4, 1e-2, 64).tolist()],
    }

    def epoch_of(points):
        members = members_of(dataclasses.replace(base, points=json.dumps(points)))
        instance = find_instance(base.precision, allow_cpu=True, weights=base.weights * len(members))
        training = PopulationTrainer(members, instance, sequence, held_out)

        def run():
            training.progress.begin_epoch()
            for _ in training.epoch_parts():
                pass

        return run

    found = in_turns(one=one, **{name: epoch_of(points) for name, points in kinds.items()})
    result = {"windows_a_second_of_one": windows / statistics.median(found["one"])}
    for name, points in kinds.items():
        result[f"windows_a_second_{name}"] = len(points) * windows / statistics.median(found[name])
        result[f"times_one_{name}"] = len(points) * ratio(found["one"], found[name])
    return result


@case
def rows():
    """Whole epochs over 1, 2, 4 and 8 times the rows (a small network, so that the data path shows)"""
    from ml.train_sequence import TrainSequence

    base, runs, result = 150_000, {}, {}
    frame = history(8 * base)
    for times in (1, 2, 4, 8):
        sequence = TrainSequence(frame.iloc[: times * base], LOOKBACK, 4096)
        runs[times], windows = steps_of(trainer(sequence, nodes=128, layers=1), sequence, 4096, sequence.num_windows)
        result[f"windows_{times}x"] = windows
        result[f"bytes_a_row_{times}x"] = sum(
            values.nbytes for values in (sequence.prices, sequence.low, sequence.height, sequence.labels)
        ) / len(frame.iloc[: times * base])
    seconds_of = in_turns(**{str(times): run for times, run in runs.items()})
    for times in (2, 4, 8):
        result[f"times_the_seconds_a_window_{times}x"] = (
            ratio(seconds_of[str(times)], seconds_of["1"]) * result["windows_1x"] / result[f"windows_{times}x"]
        )
    return result


@case
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


@case
def learning_curves():
    """A year of prices, the original network, ten epochs, three seeds: auto precision against float32 (when named)"""
    from ml.data.sources import read_channel
    from ml.optimal_position import optimal_positions
    from ml.train_sequence import TrainSequence

    prices = read_channel(Path(os.environ["BENCH_PRICES"]), "2019-06-01", "2020-06-01").frame
    frame = optimal_positions(prices, spread=0.5)

    result = {}
    for centred in (True, False):
        curves = {"auto": [], "float32": []}
        for seed, precision in itertools.product((1, 2, 3), curves):
            sequence = TrainSequence(frame, LOOKBACK, BATCH, seed=seed)
            epochs = trainer(sequence, precision=precision, seed=seed, centred=centred).fit().history
            curves[precision].append([epoch["accuracy"] for epoch in epochs])
        means = {precision: np.mean(found, axis=0) for precision, found in curves.items()}
        windows = "centred" if centred else "not_centred"
        result |= {
            f"{windows}_{precision}_accuracy_after_epoch_{epoch}": float(mean[epoch - 1])
            for precision, mean in means.items()
            for epoch in (1, 4, 10)
        } | {f"{windows}_largest_difference_of_the_means": float(np.abs(means["auto"] - means["float32"]).max())}
    return result


def job_folder(base: Path, rows: int = 3 * YEAR, settings: dict[str, str] | None = None) -> None:
    """A job on plain prices in a Parquet channel: the original network, where `settings` do not say otherwise."""
    from ml.data.sample_market import sample_market

    (base / "input/config").mkdir(parents=True)
    (base / "input/data/train").mkdir(parents=True)
    sample_market(rows=rows, seed=1).to_parquet(base / "input/data/train/prices.parquet")
    settings = (settings or {"preset": "original", "epochs": "1", "batch_size": str(BATCH)}) | {"allow_cpu": "true"}
    (base / "input/config/hyperparameters.json").write_text(json.dumps(settings))


@case
def whole_job():
    """A job as SageMaker starts it: three years of prices in a Parquet channel, original network, one epoch"""
    with tempfile.TemporaryDirectory() as folder:
        job_folder(Path(folder))
        began = time.perf_counter()
        process = subprocess.Popen(
            [
                sys.executable,
                REPOSITORY / "tests/tools/peak_memory.py",
                peak := Path(folder, "peak"),
                sys.executable,
                REPOSITORY / "container/bin/train",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"SAGEMAKER_BASE_DIR": folder},
            text=True,
        )
        times, output = times_of(process.stdout, began)
        if process.wait():
            raise RuntimeError(output)
        total, peak_memory = time.perf_counter() - began, float(peak.read_text())
        speed = float(re.search(r"windows_per_second=(\S+)", output).group(1))
    return {"seconds": total, "windows_per_second_in_the_epoch": speed, **times, "peak_memory_GiB": peak_memory}


def times_of(lines, began: float, last: str | None = None) -> tuple[dict[str, float], str]:
    """Seconds from `began` to the job's milestones as their lines arrive, to the `last`, and all that was printed."""
    milestones = {
        "prices:": "seconds_to_prices_read_and_labelled",
        "device:": "seconds_to_tensorflow_imported",
        "running:": "seconds_to_first_step_done",
        "epoch=1/": "seconds_to_first_epoch_line",
    }
    times, output = {}, []
    for line in lines:
        output.append(line)
        for start, name in milestones.items():
            if line.startswith(start):
                times[name] = time.perf_counter() - began
        if last and line.startswith(last):
            break
    return times, "".join(output)


@case
def universe():
    """A job on a year of minutes of each of 1, 10 and 100 instruments: time a bar, and memory"""
    from universe import cost

    return {
        f"{name}_of_{instruments}_instruments": value
        for instruments in (1, 10, 100)
        for name, value in cost(instruments).items()
        if name in ("microseconds_a_bar", "seconds", "peak_memory_GiB")
    }


def start_up():
    """A short job of the default settings on 20,000 rows: until its first step and its end; again with kept programs"""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "again"):
            base = Path(folder, name)
            job_folder(base, rows=20_000, settings={"epochs": "2"})
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, REPOSITORY / "container/bin/train"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ
                | {"SAGEMAKER_BASE_DIR": str(base), "POSITION_TRAINER_XLA_CACHE": str(Path(folder, "kept"))},
                text=True,
            )
            times, output = times_of(process.stdout, began)
            if process.wait():
                raise RuntimeError(output)
            times["seconds"] = time.perf_counter() - began
            result |= {f"{name}_{milestone}": value for milestone, value in times.items()}
    return result


@case
def whole_job_in_docker():
    """The same as a container of the image (make image), up to the first training steps"""
    if subprocess.run(["docker", "image", "inspect", "position-trainer"], capture_output=True, check=False).returncode:
        return {"skipped": "there is no image position-trainer: make image"}
    with tempfile.TemporaryDirectory() as folder:
        job_folder(Path(folder))
        began = time.perf_counter()
        process = subprocess.Popen(
            ["docker", "run", "--rm", "--network", "none", "--volume", f"{folder}:/opt/ml", "position-trainer"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        times = times_of(process.stdout, began, last="running:")[0]
        process.terminate()
        process.wait()
        return times


def host_speed(number: int, count: int, port: int, cores: set[int], settings: dict) -> float:
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


def host_speeds(count: int, settings: dict) -> float:
    """Windows a second of two hosts, half of the cores each, as one training or as two side by side (`count` 1)."""
    cores = sorted(os.sched_getaffinity(0))
    halves = [set(cores[: len(cores) // 2]), set(cores[len(cores) // 2 :])]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, processes) as pool:
        speeds = [
            pool.submit(host_speed, number if count == 2 else 0, count, port, halves[number], settings)
            for number in range(2)
        ]
        return statistics.mean(speed.result() for speed in speeds)


@case
def hosts():
    """One network on two hosts of half the cores each, against one such host beside another that is as busy"""
    os.environ["PYTHONPATH"] = str(REPOSITORY / "container")
    if len(os.sched_getaffinity(0)) < 2 or has_gpu():
        return {"skipped": "it needs two cores, and no GPU"}
    result = {}
    networks = {"default": {}, "original": {"lookback": LOOKBACK, "nodes": NODES, "batch_size": 4400, "centred": False}}
    for name, settings in networks.items():
        batch = settings.get("batch_size", 1024)
        one, two = host_speeds(1, settings), host_speeds(2, settings)
        half = host_speeds(1, settings | {"batch_size": batch // 2})
        result |= {
            f"{name}_windows_per_second_of_one": one,
            f"{name}_windows_per_second_of_two": two,
            f"times_as_fast_{name}": two / one,
            f"share_in_collectives_{name}": max(0.0, 1 - two / (2 * half)),
            f"{name}_milliseconds_in_collectives_a_step": 1000 * (batch / two - batch / 2 / half),
        }
    return result


def run_case(name: str) -> dict[str, float]:
    """A case's figures, from a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--in-process", name],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    return f"{gpus()}{len(os.sched_getaffinity(0))} cores of {model.group(1) if model else platform.machine()}"


def gpus() -> str:
    """The cards, their driver, and the CUDA that is installed; empty where there are none."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    cards = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    try:
        cuda = importlib.metadata.version("nvidia-cuda-runtime-cu12")
    except importlib.metadata.PackageNotFoundError:
        cuda = "not installed"
    return "".join(f"{card.replace(', ', ', driver ')}, " for card in cards) + f"CUDA {cuda}, " if cards else ""


def show(results: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['machine']}, {results['date']}", title_justify="left")
    for column in ("what", "figure", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, figures in results["cases"].items():
        ordered = sorted(figures.items(), key=lambda item: not item[0].startswith(("share", "times")))
        for i, (figure, value) in enumerate(ordered):
            shown = (
                f"{value:,.4g}"
                if isinstance(value, float) and value < 1000
                else f"{value:,.0f}"
                if isinstance(value, int | float)
                else value
            )
            table.add_row((CASES[name].__doc__ or name) if i == 0 else "", figure.replace("_", " "), shown)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def draw(results: dict, path: Path) -> None:
    """Bars of windows a second in training, ours against the others, and the ceiling."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = results["cases"]
    wanted = (
        ("five multiplications alone, bfloat16", "step_bfloat16", "ceiling_windows_per_second"),
        ("position-trainer, bfloat16", "step_bfloat16", "windows_per_second"),
        ("PyTorch, bfloat16 autocast", "pytorch", "torch_autocast_windows_per_second"),
        ("five multiplications alone, float32", "step_float32", "ceiling_windows_per_second"),
        ("position-trainer, float32", "step_float32", "windows_per_second"),
        ("PyTorch, float32", "pytorch", "torch_float32_windows_per_second"),
        (
            "Keras fit, timeseries_dataset_from_array",
            "other_pipelines",
            "timeseries_dataset_from_array_windows_per_second",
        ),
        ("Keras fit, windows row by row", "other_pipelines", "row_by_row_windows_per_second"),
    )
    bars = [(label, cases[name][figure]) for label, name, figure in wanted if figure in cases.get(name, {})]
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(bars) + 1.2), layout="constrained")
    labels, values = zip(*reversed(bars), strict=True)
    colours = ["#999999" if "alone" in label else "#0072B2" if "position" in label else "#E69F00" for label in labels]
    axes.barh(labels, values, color=colours)
    axes.bar_label(axes.containers[0], [f" {value:,.0f}" for value in values])
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("training windows a second (lookback 1440, 1024-1024-2, batch 4400)")
    axes.set_title(results["machine"], loc="left", fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}; there are {', '.join(CASES)}")
    if options.in_process:
        sys.path.insert(0, str(REPOSITORY / "container"))
        print(json.dumps(CASES[options.cases[0]]()))
        return
    results = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "cases": {}}
    for name in options.cases or [name for name in CASES if name not in ("learning_curves", "universe")]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results["cases"][name] = run_case(name)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, RESULTS / "bench.png")
    show(results)
    print(f"{RESULTS / 'bench.json'}\n{RESULTS / 'bench.png'}")
    sys.exit(any("failed" in figures for figures in results["cases"].values()))


if __name__ == "__main__":
    main()
