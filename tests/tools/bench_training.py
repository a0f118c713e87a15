"""Benchmarks of training itself: against what the hardware could do, and over sizes. A public function is a case."""

import dataclasses
import itertools
import json
import os
import statistics
from pathlib import Path

import numpy as np

from bench_parts import BATCH, LOOKBACK, NODES, has_gpu, history, in_turns, ratio, seconds, steps_of, trainer


def step_bfloat16():
    """Training step of the original network, bfloat16, batch 4400, against its five multiplications alone"""
    return _against_ceiling("bfloat16")


def step_float32():
    """The same in float32"""
    return _against_ceiling("float32")


def _against_ceiling(precision: str):
    import tensorflow as tf

    from ml.train_sequence import TrainSequence

    steps = 330 if has_gpu() else 14  # a GPU's take a fraction of a millisecond each
    sequence = TrainSequence(history(LOOKBACK + steps * BATCH), LOOKBACK, BATCH)
    training = trainer(sequence, precision=precision)
    run, windows = steps_of(training, sequence, BATCH, steps * BATCH)
    ceiling = _five_multiplications(BATCH, precision, steps)
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


def _five_multiplications(batch: int, precision: str, times: int):
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


def batch_size():
    """Windows a second over batch sizes"""
    return {
        str(size): _epoch_seconds(100_000, LOOKBACK, size, max(12_800, 3 * size))
        for size in (32, 128, 512, 1024, 4096, 8192, 16384)
    }


def lookback():
    """Windows a second over lookbacks, batch 4400"""
    return {str(length): _epoch_seconds(100_000, length, BATCH, 6 * BATCH) for length in (60, 240, 720, 1440, 2880)}


def _epoch_seconds(rows: int, lookback: int, batch_size: int, windows: int) -> float:
    """Windows a second over `windows` windows of an epoch, best of three."""
    from ml.train_sequence import TrainSequence

    sequence = TrainSequence(history(rows), lookback, batch_size)
    run, count = steps_of(trainer(sequence), sequence, batch_size, windows)
    run()
    return count / min(seconds(run) for _ in range(3))


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
