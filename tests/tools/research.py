"""What the model is worth on real prices: settings compared on folds before 2020, then one table on 2020.

    make research                               both, as Markdown; goes on where it was cut off
    make research ARGS="folds"                  candidates, each the shipped defaults with a change [NAME ...]
    make research ARGS="report"                 the defaults and the original against the baselines, on 2020
    make research ARGS="walks"                  verdicts and luck's figures where the truth is known: on 40 simulated
                                                random walks of 64 tries each, without skill and with it
    make research ARGS="--short"                both on a few weeks, to see that it works; the numbers mean nothing

A fold trains on all rows before its stretch but a purge, as a job does: the last tenth of them chooses the epoch.
Baselines are fitted on the same rows. Every minute of a stretch is predicted, by every candidate alike. Scores,
baselines, intervals and verdicts are the job's own (`ml.judge`). A candidate's predictions are kept in runs/research
under its settings; delete the folder to compute them afresh. Real prices are needed (POSITION_TRAINER_SHARED).
"""

import argparse
import dataclasses
import functools
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd
import scipy.stats

from ml.data.sample_market import sample_market
from ml.digits import share
from ml.files import write_whole
from ml.judge.baselines import baselines
from ml.judge.bootstrap import CONFIDENCE, Bootstrap, Estimate
from ml.judge.daily import Members, daily_of_members, luck_of_members
from ml.judge.decided import DECIDED_ACCURACY, RANDOM_WALK, decided_scores, decided_verdict, random_walk_scores
from ml.judge.instruments import Instrument
from ml.judge.performance import TEST, block_of, measure
from ml.judge.scores import ACCURACY, LOG_LOSS, Prediction, score
from ml.learn.folds import split_by_time
from ml.learn.network import build_network
from ml.learn.trainer import Trainer
from ml.optimal_position import decided_bars, labelled, optimal_positions
from ml.platform.hardware import Instance, find_instance
from ml.settings import PRESETS, Settings
from ml.train_sequence import TrainSequence

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("POSITION_TRAINER_SHARED") or REPOSITORY.parent / "shared")
PRICES = SHARED / "data/xbtusd_minutely_2017-06_2020-06.parquet"
RESULTS = REPOSITORY / "runs/research"

Span = tuple[str, str]  # first day, and the day after the last

BAR = pd.Timedelta(minutes=1)
HORIZON, SPREAD = 300, 0.5
PURGE = 1440 + HORIZON  # of the longest lookback, so that all candidates train on the same rows
FOLDS = (("2018-07-01", "2019-01-01"), ("2019-01-01", "2019-07-01"), ("2019-07-01", "2020-01-01"))
FINAL = ("2020-01-01", "2020-07-01")
SHORT_FOLDS, SHORT_FINAL = (("2017-07-01", "2017-07-08"), ("2017-07-08", "2017-07-15")), ("2017-07-15", "2017-07-22")
WINDOWS_AT_ONCE = 8192

WALKS, TRIES = 40, 64
WALK_PARTS = (20 * 1440, 20 * 1440, 20 * 1440)  # minutes to fit rules on, to choose on, to test on
KNOWN = 0.5  # of the hours whose labels the try with skill knows

SHIPPED, ORIGINAL, DECIDED = "the shipped defaults", "the original preset", "trained on decided bars"

# What each candidate changes in the shipped defaults; of several, the probabilities are averaged.
CANDIDATES = {
    SHIPPED: {},
    # It would take ten epochs, and is at its best before the fifth.
    ORIGINAL: {**PRESETS["original"], "patience": 2},
    **{f"seed {seed}": {"seed": seed} for seed in (2, 3, 4)},
    "four seeds averaged": [{"seed": seed} for seed in (1, 2, 3, 4)],
    **{f"lookback {bars}": {"lookback": bars} for bars in (120, 180, 300, 360, 1440)},
    **{f"nodes {nodes}": {"nodes": nodes} for nodes in (32, 256)},
    "one hidden layer": {"layers": 1},
    "windows not centred": {"centred": False},
    DECIDED: {"train_on": "decided"},
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
    def decided(self) -> np.ndarray:
        return self.frame["decided"].to_numpy()[self.first :]

    def instrument(self, probability: np.ndarray) -> Instrument:
        """The stretch as a job judges it, with P(buy) of each of its rows."""
        return Instrument(self.frame, self.first - PURGE, probability)


@functools.cache
def stretch(span: Span) -> Stretch:
    start, end = (pd.Timestamp(day, tz="UTC") for day in span)
    prices = pd.read_parquet(PRICES)
    frame = optimal_positions(prices[prices.index < end], HORIZON, SPREAD)
    frame["decided"] = decided_bars(frame)
    return Stretch(frame, int(frame.index.searchsorted(start)))


# The network


@functools.cache
def instance() -> Instance:
    return find_instance("auto")


def network(span: Span, changes: dict | list[dict], results: Path) -> np.ndarray:
    """P(buy) of each row of a stretch, by the network trained with the shipped defaults and these changes.

    It is read where it was computed before.
    """
    if isinstance(changes, list):
        return np.mean([network(span, of_one, results) for of_one in changes], axis=0)
    settings = Settings(**changes)
    values = dataclasses.asdict(settings)
    del values["preset"]
    name = hashlib.sha256(json.dumps([span, values], default=str).encode()).hexdigest()[:16]
    path = results / f"{span[0]}-{name}.npy"
    if not path.exists():
        print(f"{span[0]}: {changes or SHIPPED}", file=sys.stderr)
        began, content = time.monotonic(), io.BytesIO()
        np.save(content, _trained(stretch(span), settings).astype(np.float32))
        write_whole(path, content.getvalue())
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
    return np.load(path)


def _trained(part: Stretch, settings: Settings) -> np.ndarray:
    train_rows, held_out = split_by_time(part.train, settings.validation_fraction, settings.lookback, HORIZON)
    assert held_out is not None
    device = instance()
    model = build_network(settings)
    Trainer(
        model,
        settings,
        device,
        TrainSequence(train_rows, settings.lookback, settings.batch_size, seed=settings.seed),
        TrainSequence(held_out, settings.lookback, settings.batch_size, enable_shuffle=False),
    ).fit(report=lambda line, **_: print(f"  {line}", file=sys.stderr))
    windows = _windows(part.frame.iloc[part.first - settings.lookback + 1 :], settings.lookback)
    return np.concatenate([np.asarray(model(some))[:, 1] for some in windows])


def _windows(rows: pd.DataFrame, lookback: int) -> Iterator[np.ndarray]:
    sequence = TrainSequence(rows, lookback)
    for first in range(0, sequence.num_windows, WINDOWS_AT_ONCE):
        yield sequence.windows(np.arange(first, min(first + WINDOWS_AT_ONCE, sequence.num_windows)))


# The tables


def predictions(spans: Sequence[Span], names: Sequence[str], results: Path) -> Iterator[Prediction]:
    """What candidates, and then the baselines, say about all rows of some stretches."""
    for name in names:
        probability = np.concatenate([network(span, CANDIDATES[name], results) for span in spans])
        yield Prediction(name, probability, probability > 0.5)
    settings = Settings(spread=SPREAD)
    fitted = [baselines([part.instrument(np.zeros(len(part.labels)))], settings, BAR) for part in map(stretch, spans)]
    for rules in zip(*fitted, strict=True):
        yield Prediction(
            ", ".join(dict.fromkeys(rule.name for rule in rules)),
            np.concatenate([rule.probability for rule in rules]),
            np.concatenate([rule.buy for rule in rules]),
        )


def print_table(spans: Sequence[Span], names: Sequence[str], results: Path) -> None:
    """Prints candidates and baselines with what they are better or worse by than the shipped defaults.

    A row is printed as soon as it is known, since a candidate takes minutes.
    """
    parts = [stretch(span) for span in spans]
    labels, decided = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "decided"))
    bootstrap = Bootstrap(len(labels), block_of(HORIZON, BAR))
    when = ", ".join(f"{start} to {end}" for start, end in spans)
    print(f"\n{when} (ends excluded), {len(labels):,} minutes, of which {decided.sum():,} are decided:\n")
    columns = [
        "predictor",
        "accuracy",
        "log-loss",
        "accuracy on decided bars",
        "accuracy beyond the defaults'",
        "log-loss beyond the defaults'",
    ]
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n", flush=True)

    def scores_of(prediction: Prediction) -> dict[str, np.ndarray]:
        return score(prediction, labels, bootstrap) | decided_scores(prediction, labels, decided, bootstrap)

    shipped = scores_of(next(predictions(spans, [SHIPPED], results)))
    for each in predictions(spans, names, results):
        scored = scores_of(each)
        cells = [share(scored[ACCURACY][0]), share(scored[LOG_LOSS][0])]
        cells.append(interval(bootstrap.estimate(scored[DECIDED_ACCURACY])))
        for name in (ACCURACY, LOG_LOSS):
            beyond = interval(bootstrap.estimate(scored[name] - shipped[name]), "+")
            cells.append("" if each.name == SHIPPED else beyond)
        print(f"| {' | '.join([each.name, *cells])} |", flush=True)
    walk = random_walk_scores(
        [part.instrument(np.zeros(len(part.labels))) for part in parts], Settings(spread=SPREAD), bootstrap.block
    )
    cells = [share(walk[ACCURACY].value), share(walk[LOG_LOSS].value), interval(walk[DECIDED_ACCURACY]), "", ""]
    print(f"| {' | '.join([RANDOM_WALK, *cells])} |", flush=True)
    print(f"\nIn brackets: {CONFIDENCE:.0%} intervals, block bootstrap. On decided bars chance gives one half.")


def interval(estimate: Estimate, sign: str = "") -> str:
    """A value and its interval."""
    value, low, high = (share(number, sign) for number in estimate)
    return f"{value} [{low}, {high}]"


def print_verdict(span: Span, name: str, results: Path) -> None:
    """Prints what a job would say of a candidate on a stretch."""
    probability = network(span, CANDIDATES[name], results)
    found = measure([stretch(span).instrument(probability)], Settings(spread=SPREAD), BAR, TEST)
    print(f"\n{name}: {found.decided_verdict} {found.verdict} {found.profit_verdict}")


# Where the truth is known


@dataclasses.dataclass(frozen=True)
class Walk:
    """What was found on one random walk, of tries of which the best on validation was chosen."""

    luck: dict
    better_on_validation: bool
    better_on_test: bool
    last_hour: str  # the verdict on decided bars of one who follows the last hour's return


def synthetic_tries(history: pd.DataFrame, seed: int, skill: bool) -> np.ndarray:
    """P(buy) of each row by tries that follow prices over lengths of their own; the first may know some hours' labels.

    They carry positions on, as networks do, and foresee nothing: (TRIES, rows).
    """
    rng, mid = np.random.default_rng([seed, 1]), history["mid"].to_numpy()
    found = []
    for bars in np.exp(rng.uniform(np.log(15), np.log(1440), TRIES)).astype(int):
        smoothed = pd.Series(mid).ewm(span=bars).mean().to_numpy()
        apart = (mid - smoothed) / np.std(mid - smoothed) + rng.normal(0, 0.3)
        found.append(1 / (1 + np.exp(-apart)))
    if skill:
        knows = (rng.random(len(mid) // 60 + 1) < KNOWN).repeat(60)[: len(mid)]
        found[0] = np.where(knows, np.where(history["position"] > 0, 0.9, 0.1), found[0])
    return np.array(found)


def walk(seed: int, *, skill: bool) -> Walk:
    """Chooses the try that is right most often on validation, and judges it there and on the test part."""
    fitted, validated, tested = WALK_PARTS
    settings = Settings(horizon=HORIZON)
    rows = sum(WALK_PARTS) + 2 * PURGE
    history = labelled(sample_market(rows + HORIZON, seed, predictability=0.0), HORIZON, 0.0)
    tries = synthetic_tries(history, seed, skill)
    chosen_on = slice(fitted + PURGE, fitted + PURGE + validated)
    labels = history["position"].to_numpy()[chosen_on] > 0
    chosen = int(((tries[:, chosen_on] > 0.5) == labels).mean(axis=1).argmax())
    validation = [Instrument(history[: chosen_on.stop], fitted, tries[chosen, chosen_on])]
    on_validation = measure(validation, settings, BAR)
    last = measure([Instrument(history, fitted, tries[chosen, -tested:])], settings, BAR)
    rule = on_validation.daily[on_validation.best_baseline]
    members = Members(np.arange(validated), tries[:, chosen_on], range(TRIES), chosen, TRIES)
    mid = history["mid"].to_numpy()
    rose = mid[-tested:] > mid[-tested - 60 : -60]
    return Walk(
        luck_of_members(daily_of_members(validation, members, settings), members, rule, 1),
        on_validation.gains[on_validation.best_baseline][ACCURACY].low > 0,
        last.gains[last.best_baseline][ACCURACY].low > 0,
        verdict_on_decided_bars(history[-tested:], rose),
    )


def verdict_on_decided_bars(history: pd.DataFrame, buy: np.ndarray) -> str:
    """What a job would say of a rule on decided bars."""
    labels, decided = history["position"].to_numpy() > 0, decided_bars(history)
    assert decided is not None
    bootstrap = Bootstrap(len(labels), block_of(HORIZON, BAR))
    scored = decided_scores(Prediction("", np.where(buy, 0.7, 0.3), buy), labels, decided, bootstrap)
    return decided_verdict(bootstrap.estimate(scored[DECIDED_ACCURACY]), int(decided.sum()), bootstrap, BAR)


def print_walks(count: int) -> None:
    """Prints how often verdicts and luck's figures are right."""
    print(f"\n{count} random walks each, {TRIES} tries, the one chosen that is right most often on 20 days:\n")
    columns = [
        "tries",
        "better than the best rule on validation",
        "on the test part",
        "called more than luck",
        "mean probability of overfitting",
        "SPA's p-values below 0.05",
        "p-values uniform (Kolmogorov-Smirnov)",
        "last hour's return on decided bars: better, no better, worse",
    ]
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n", flush=True)
    for skill in (False, True):
        walks = [walk(seed, skill=skill) for seed in range(count)]
        p_values = [each.luck["spa_p_value"] for each in walks]
        said = [f"is {what} than chance" for what in ("better", "no better", "worse")]
        cells = [
            "one with skill" if skill else "none with skill",
            *(
                f"{sum(found)} of {count}"
                for found in (
                    [each.better_on_validation for each in walks],
                    [each.better_on_test for each in walks],
                    [each.luck["verdict"].startswith("Luck alone does not") for each in walks],
                )
            ),
            f"{np.mean([each.luck['overfitting_probability'] for each in walks]):.2f}",
            f"{sum(value < 0.05 for value in p_values)} of {count}",
            f"p = {scipy.stats.kstest(p_values, 'uniform').pvalue:.2f}",
            ", ".join(str(sum(text in each.last_hour for each in walks)) for text in said),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("folds", "report", "walks"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CANDIDATES)}")
    parser.add_argument("--short", action="store_true", help="a few weeks of prices, to see that everything works")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the predictions that are kept")
    options = parser.parse_args()
    if options.part == "walks":
        print_walks(2 if options.short else WALKS)
        return
    if not PRICES.is_file():
        parser.error(f"real prices are needed, and {PRICES} is not there; set POSITION_TRAINER_SHARED")
    if unknown := [name for name in options.names if name not in CANDIDATES]:
        parser.error(f"unknown candidate {unknown[0]!r}; known: {', '.join(CANDIDATES)}")
    folds, final = (SHORT_FOLDS, SHORT_FINAL) if options.short else (FOLDS, FINAL)
    if options.part != "report":
        print_table(folds, options.names or list(CANDIDATES), options.results)
    if options.part != "folds":
        print_table([final], [SHIPPED, DECIDED, ORIGINAL], options.results)
        for name in (SHIPPED, DECIDED):
            print_verdict(final, name, options.results)


if __name__ == "__main__":
    main()
