"""Parts of the benchmarks: prices, a training that is run in calls, and functions timed in turns."""

import statistics
import time

YEAR, LOOKBACK, NODES, BATCH = 527_040, 1440, 1024, 4400
TURNS = 5


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
