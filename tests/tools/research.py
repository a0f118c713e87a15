"""What the model is worth on real prices: settings compared on folds before 2020, then one table on 2020.

    make research                               both; goes on where it was cut off, prints Markdown
    python tests/tools/research.py folds [NAME ...]   candidates, each the shipped defaults with a change
    python tests/tools/research.py report             the defaults and the original against the baselines, on 2020

A fold trains on all rows before its stretch but a purge, as a job does: the last tenth of them chooses the epoch.
Baselines are fitted on the same rows. Every minute of a stretch is predicted, by every candidate alike. Predictions
are kept in runs/research under the settings they are of; delete it to compute them afresh. Real prices are needed
(POSITION_TRAINER_SHARED).
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd
import scipy.optimize

from ml.learn.folds import split_by_time
from ml.learn.network import build_network
from ml.learn.trainer import Trainer
from ml.optimal_position import optimal_positions
from ml.platform.hardware import find_instance
from ml.settings import PRESETS, Settings
from ml.train_sequence import TrainSequence

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("POSITION_TRAINER_SHARED") or REPOSITORY.parent / "shared")
PRICES = SHARED / "data/xbtusd_minutely_2017-06_2020-06.parquet"
RESULTS = REPOSITORY / "runs/research"

HORIZON, SPREAD = 300, 0.5
PURGE = 1440 + HORIZON  # of the longest lookback, so that all candidates train on the same rows
FOLDS = (("2018-07-01", "2019-01-01"), ("2019-01-01", "2019-07-01"), ("2019-07-01", "2020-01-01"))
FINAL = ("2020-01-01", "2020-07-01")
LENGTHS = (15, 30, 60, 90, 120, 180, 240, 360, 480, 720, 1440)  # minutes, of the rules
LOGISTIC_LOOKBACK, LOGISTIC_EVERY = 300, 15  # its neighbours among the windows tell it nothing new

# What each candidate changes in the shipped defaults; of several, the probabilities are averaged.
CANDIDATES = {
    "the shipped defaults": {},
    # It would take ten epochs, and is at its best before the fifth.
    "the original preset": {**PRESETS["original"], "patience": 2},
    **{f"seed {seed}": {"seed": seed} for seed in (2, 3, 4)},
    "four seeds averaged": [{"seed": seed} for seed in (1, 2, 3, 4)],
    **{f"lookback {minutes}": {"lookback": minutes} for minutes in (120, 180, 300, 360, 1440)},
    **{f"nodes {nodes}": {"nodes": nodes} for nodes in (32, 256)},
    "one hidden layer": {"layers": 1},
    "windows not centred": {"centred": False},
    **{f"dropout {share}": {"dropout": share} for share in (0.0, 0.5)},
    "weight decay 1.0": {"weight_decay": 1.0},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "constant learning rate": {"schedule": "constant"},
    **{f"learning rate {rate}": {"learning_rate": rate} for rate in (0.0003, 0.003)},
    # By `launch.py tune` on one stretch, when the defaults had three epochs and windows that were not centred
    "what a tuning job found": {
        "lookback": 482,
        "nodes": 105,
        "dropout": 0.01862,
        "learning_rate": 0.0003388,
        "epochs": 3,
        "centred": False,
    },
    **{f"batch size {size}": {"batch_size": size} for size in (256, 4096)},
    **{f"epochs {epochs}": {"epochs": epochs} for epochs in (2, 3, 8)},
}


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A stretch of time to predict, and what may be learned from.

    Attributes:
        frame: rows up to its end, with positions.
        first: number of its first row.
    """

    frame: pd.DataFrame
    first: int

    @property
    def train(self) -> pd.DataFrame:
        return self.frame.iloc[: self.first - PURGE]

    @property
    def labels(self) -> np.ndarray:
        return self.frame["position"].to_numpy()[self.first :] > 0

    @property
    def days(self) -> np.ndarray:
        """The day of each row, counted from the first."""
        dates = self.frame.index[self.first :].floor("D")
        return (dates - dates[0]).days.to_numpy()


@functools.cache
def stretch(start: str, end: str) -> Stretch:
    prices = pd.read_parquet(PRICES)
    frame = optimal_positions(prices[prices.index < pd.Timestamp(end, tz="UTC")], HORIZON, SPREAD)
    return Stretch(frame, int(frame.index.searchsorted(pd.Timestamp(start, tz="UTC"))))


def known(span, name: str, compute) -> np.ndarray:
    """P(buy) of each row of a stretch: as it was computed before, or now."""
    path = RESULTS / f"{span[0]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        began = time.monotonic()
        probabilities = compute(stretch(*span)).astype(np.float32)
        RESULTS.mkdir(parents=True, exist_ok=True)
        np.save(path, probabilities)
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
    return np.load(path)


# The network


@functools.cache
def instance():
    return find_instance("auto")


def network(span, changes: dict | list[dict]) -> np.ndarray:
    """P(buy) of the network trained with the shipped defaults and these changes."""
    if isinstance(changes, list):
        return np.mean([network(span, of_one) for of_one in changes], axis=0)
    settings = Settings(**changes)
    print(f"{span[0]}: {changes or 'the shipped defaults'}", file=sys.stderr)
    name = json.dumps(
        {field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings) if field.name != "preset"},
        default=str,
    )
    return known(span, name, lambda part: _trained(part, settings))


def _trained(part: Stretch, settings: Settings) -> np.ndarray:
    train_rows, held_out = split_by_time(part.train, settings.validation_fraction, settings.lookback, HORIZON)
    device = instance()
    model = build_network(settings)
    Trainer(
        model,
        settings,
        device,
        TrainSequence(train_rows, settings.lookback, settings.batch_size, seed=settings.seed),
        TrainSequence(held_out, settings.lookback, settings.batch_size, enable_shuffle=False),
    ).fit(report=lambda line, **_: print(f"  {line}", file=sys.stderr))
    return np.concatenate([np.asarray(model(windows))[:, 1] for windows in _windows(part, settings.lookback)])


def _windows(part: Stretch, lookback: int):
    """The windows that end at the rows of a stretch, some at a time."""
    sequence = TrainSequence(part.frame.iloc[part.first - lookback + 1 :], lookback)
    for first in range(0, sequence.num_windows, 8192):
        yield sequence.windows(np.arange(first, min(first + 8192, sequence.num_windows)))


# The baselines


def baselines(span) -> dict[str, np.ndarray]:
    """P(buy) of each baseline, fitted on the training rows of a stretch."""
    mid = stretch(*span).frame["mid"]
    rules = {
        "momentum": {n: (mid > mid.shift(n)).to_numpy() for n in LENGTHS},
        "range rule": {n: (mid - mid.rolling(n).min() > mid.rolling(n).max() - mid).to_numpy() for n in LENGTHS},
    }
    part = stretch(*span)
    right = part.train["position"].to_numpy() > 0
    found = {
        "majority": np.full(len(part.labels), right.mean()),
        # The position of `horizon` minutes ago: no later one is known yet.
        "persistence": _two_sided(part, (part.frame["position"].shift(HORIZON) > 0).to_numpy()),
    }
    for name, says_buy in rules.items():
        length = max(LENGTHS, key=lambda n: np.mean(says_buy[n][: len(right)] == right))
        found[f"{name}, {length} minutes"] = _two_sided(part, says_buy[length])
    found["logistic regression"] = known(span, "logistic regression", _logistic)
    return found


def _two_sided(part: Stretch, says_buy: np.ndarray) -> np.ndarray:
    """A rule's P(buy): how often it was right on the training rows when it said buy, and when it did not."""
    right = part.train["position"].to_numpy() > 0
    said = says_buy[: len(right)]
    return np.where(says_buy[part.first :], right[said].mean(), right[~said].mean())


def _logistic(part: Stretch) -> np.ndarray:
    """Logistic regression on the normalised window."""
    train = TrainSequence(part.train, LOGISTIC_LOOKBACK)
    starts = np.arange(0, train.num_windows, LOGISTIC_EVERY)
    windows, labels = train.windows(starts).astype(np.float64), train.labels[starts]

    def loss_and_gradient(weights):
        scores = windows @ weights[1:] + weights[0]
        error = 1 / (1 + np.exp(-scores)) - labels
        return np.mean(np.logaddexp(0, scores) - labels * scores), np.concatenate(
            [[error.mean()], windows.T @ error / len(labels)]
        )

    start = np.zeros(LOGISTIC_LOOKBACK + 1)
    bias, *weights = scipy.optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B").x
    scores = np.concatenate([windows @ np.array(weights) + bias for windows in _windows(part, LOGISTIC_LOOKBACK)])
    return 1 / (1 + np.exp(-scores))


# The numbers


def right_and_loss(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is predicted right, and its log-loss."""
    of_label = np.where(labels, probabilities, 1 - probabilities).astype(np.float64)
    return ((probabilities > 0.5) == labels).astype(np.float64), -np.log(np.maximum(of_label, 1e-6))


def interval(differences: np.ndarray, days: np.ndarray, resamples: int = 2000) -> str:
    """A mean and its 95 % interval by resampling whole days: what is right at noon is right a minute later."""
    sums, counts = np.bincount(days, differences), np.bincount(days)
    drawn = np.random.default_rng(1).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def over(predict) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row of all folds is predicted right, and its log-loss."""
    pairs = [right_and_loss(predict(span), stretch(*span).labels) for span in FOLDS]
    return tuple(np.concatenate(column) for column in zip(*pairs, strict=True))


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")


def folds(names: list[str]) -> None:
    """Every candidate and baseline over all folds, and what it is better or worse by than the shipped defaults."""

    def days():
        counted = np.cumsum([0, *(stretch(*span).days[-1] + 1 for span in FOLDS)])
        return np.concatenate([stretch(*span).days + offset for span, offset in zip(FOLDS, counted, strict=False)])

    shipped = over(lambda span: network(span, {}))
    found = {name: over(functools.partial(network, changes=CANDIDATES[name])) for name in names}
    fitted = {span: list(baselines(span).items()) for span in FOLDS}
    for number, (name, _) in enumerate(fitted[FOLDS[0]]):
        found[name.partition(",")[0]] = over(lambda span, number=number: fitted[span][number][1])
    rows = [
        [
            name,
            f"{right.mean():.4f}",
            f"{loss.mean():.4f}",
            interval(right - shipped[0], days()),
            interval(loss - shipped[1], days()),
        ]
        for name, (right, loss) in found.items()
    ]
    print(f"\nFolds {', '.join(f'{start} to {end}' for start, end in FOLDS)} (ends excluded):\n")
    table(["candidate", "accuracy", "log-loss", "accuracy beyond the defaults'", "log-loss beyond the defaults'"], rows)


def report() -> None:
    """The shipped defaults, the original's and the baselines on 2020, and what the defaults are better by."""
    labels, days = stretch(*FINAL).labels, stretch(*FINAL).days
    found = {name: network(FINAL, CANDIDATES[name]) for name in ("the shipped defaults", "the original preset")}
    found |= baselines(FINAL)
    right, loss = right_and_loss(found["the shipped defaults"], labels)
    rows = []
    for name, probabilities in found.items():
        their_right, their_loss = right_and_loss(probabilities, labels)
        differences = (
            [""] * 2
            if name == "the shipped defaults"
            else [interval(right - their_right, days), interval(loss - their_loss, days)]
        )
        rows.append([name, f"{their_right.mean():.4f}", f"{their_loss.mean():.4f}", *differences])
    print(f"\n{FINAL[0]} to {FINAL[1]} (end excluded), {len(labels):,} minutes:\n")
    table(
        ["predictor", "accuracy", "log-loss", "the defaults' accuracy beyond it", "the defaults' log-loss beyond it"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("folds", "report"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CANDIDATES)}")
    options = parser.parse_args()
    if not PRICES.is_file():
        parser.error(f"real prices are needed, and {PRICES} is not there; set POSITION_TRAINER_SHARED")
    if options.part != "report":
        folds(options.names or list(CANDIDATES))
    if options.part != "folds":
        report()


if __name__ == "__main__":
    main()
