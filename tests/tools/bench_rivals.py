"""Benchmarks against other ways to do the same. A public function is a case."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import os

import numpy as np

from bench_parts import BATCH, LOOKBACK, NODES, history, in_turns, ratio, steps_of, trainer


def data_path_on_one_core():
    """Cutting and scaling batches on one core: seq[i] against the row-by-row Sequence"""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from ml.train_sequence import TrainSequence

    frame = history(150_000).reset_index()
    ours, theirs = TrainSequence(frame, LOOKBACK, BATCH), _row_by_row(frame, 100)

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


def other_pipelines():
    """Whole training at batch 4400, auto precision, against fit on row-by-row windows and on Keras' own dataset"""
    from ml.train_sequence import TrainSequence

    frame = history(100_000)
    sequence = TrainSequence(frame, LOOKBACK, BATCH)
    run, windows = steps_of(trainer(sequence), sequence, BATCH, 10 * BATCH)
    small = frame.iloc[: LOOKBACK + 2 * 2200 - 1].reset_index()
    with _quiet_keras() as (keras, model):
        plain = _row_by_row(small, 2200, workers=2, use_multiprocessing=True)
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


def batch_32():
    """Batch 32, auto precision, against plain fit on seq[i]"""
    from ml.train_sequence import TrainSequence

    frame = history(40_000)
    sequence = TrainSequence(frame, LOOKBACK, 32)
    run, windows = steps_of(trainer(sequence), sequence, 32, 400 * 32)
    with _quiet_keras() as (_, model):
        few = TrainSequence(frame.iloc[: LOOKBACK + 200 * 32 - 1], LOOKBACK, 32)
        times = in_turns(ours=run, fit=lambda: model.fit(few, verbose=0))
    each = {"ours": [t / windows for t in times["ours"]], "fit": [t / (200 * 32) for t in times["fit"]]}
    return {
        "windows_per_second": 1 / min(each["ours"]),
        "fit_windows_per_second": 1 / min(each["fit"]),
        "times_as_fast": ratio(each["fit"], each["ours"]),
    }


def _row_by_row(frame, batch_size, **options):
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


def _compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@contextlib.contextmanager
def _quiet_keras():
    import keras

    from ml.learn.network import build_network
    from ml.settings import Settings

    yield keras, _compiled(build_network(Settings(lookback=LOOKBACK, nodes=NODES, centred=False)))


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
