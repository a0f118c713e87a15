"""How often a model is right where that is not mechanical: on decided bars, and on a random walk.

An optimal position lasts until the next one is certain, so most labels are carried on from earlier bars, and prices
that are known tell much of them. Where a bar is decided (`ml.optimal_position.decided_bars`), its label depends on
later prices alone: on a random walk nobody is right more often than one half.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ml.digits import share
from ml.errors import UserError
from ml.judge.bars import bars_of
from ml.judge.baselines import fitted_regression
from ml.judge.bootstrap import CONFIDENCE, LEAST_BLOCKS, Bootstrap, Estimate
from ml.judge.instruments import Instrument, spreads_of
from ml.judge.scores import ACCURACY, LOG_LOSS, Prediction, score
from ml.optimal_position import decided_bars, optimal_positions
from ml.settings import Settings

DECIDED_ACCURACY, DECIDED_LOSS = "decided_accuracy", "decided_loss"
RANDOM_WALK = "random walk (simulated)"

_CHANCE = 0.5
_MOST_WALKS, _WALKED_ROWS = 5, 5_000_000  # a walk of a million rows takes a third of a second
_LEAST_PROBABILITY = 1e-7  # for the logarithm


def decided_scores(
    prediction: Prediction, labels: np.ndarray, decided: np.ndarray | None, bootstrap: Bootstrap
) -> dict[str, np.ndarray]:
    """Accuracy and log-loss on the decided rows alone, as `ml.judge.scores.score` gives those on all.

    Args:
        prediction: of the held-out rows.
        labels: whether the optimal position is long, bool, (rows,).
        decided: which rows are decided, bool, (rows,); None: it is not known.
        bootstrap: of the same rows.

    Returns:
        (1 + resamples,) each, nan in a resample without a decided row; nothing where it is not known which are.
    """
    if decided is None:
        return {}
    of_label = np.where(labels, prediction.probability, 1 - prediction.probability)
    losses = -np.log(np.clip(of_label, _LEAST_PROBABILITY, 1))
    rows = bootstrap.total(decided)
    with np.errstate(invalid="ignore"):
        return {
            DECIDED_ACCURACY: bootstrap.total((prediction.buy == labels) & decided) / rows,
            DECIDED_LOSS: bootstrap.total(np.where(decided, losses, 0.0)) / rows,
        }


def decided_rows(instruments: Sequence[Instrument]) -> np.ndarray | None:
    """Which of the rows with a prediction are decided, instrument after instrument, bool, (rows,); None: not known."""
    found = [(each.decided, each.predicted) for each in instruments if len(each.predicted)]
    known = [decided[predicted] for decided, predicted in found if decided is not None]
    return np.concatenate(known) if len(known) == len(found) else None


def decided_verdict(
    accuracy: Estimate, decided: int, bootstrap: Bootstrap, bar: pd.Timedelta, part: str = "held-out"
) -> str:
    """What the accuracy on decided bars says, one sentence.

    Args:
        accuracy: the model's on them.
        decided: how many there are.
        bootstrap: of all held-out rows.
        bar: length of a bar.
        part: of the history that they are of, in the sentence's words.
    """
    bars = bars_of(bar)
    if not decided:
        return f"None of the {bootstrap.rows:,} {part} {bars} is decided: no optimal position is certain there."
    counted = f"{decided:,} {part} {bars} at which the optimal position is certain and not carried on"
    if np.isnan(accuracy.low):
        why = "" if bootstrap.has_intervals else f": no interval from fewer than {LEAST_BLOCKS} blocks; hold out more"
        return (
            f"Too few decided bars to compare the model with chance, which gives one half: right on "
            f"{share(accuracy.value)} of the {counted}{why}."
        )
    finding = (
        "better than chance"
        if accuracy.low > _CHANCE
        else "worse than chance"
        if accuracy.high < _CHANCE
        else "no better than chance"
    )
    interval = f"{CONFIDENCE:.0%} interval {share(accuracy.low)} to {share(accuracy.high)}"
    return (
        f"On decided bars, where chance gives one half, the model is {finding}: right on {share(accuracy.value)} "
        f"({interval}) of the {counted}."
    )


def random_walk_scores(instruments: Sequence[Instrument], settings: Settings, block: int) -> dict[str, Estimate]:
    """What the logistic regression scores on random walks with the histories' volatility: what skill cannot explain.

    Each return of each history is given a random sign (of a fixed seed), the walk is labelled as a history is, the
    regression is fitted on its training rows and scored on those that the model was asked to predict. The scores are
    the means over up to five such walks, fewer of histories that are long.

    Args:
        instruments: as given to `ml.judge.performance.measure`.
        settings: lookback, horizon, max_gap, spread.
        block: bars of a block of the bootstrap.

    Returns:
        accuracy, log_loss, decided_accuracy and decided_loss; nothing where labels are not the job's own, or a part
        of the walk has none.
    """
    judged = [each for each in instruments if len(each.history)]
    if not judged or any(each.decided is None for each in judged):
        return {}
    rows = sum(len(each.history) for each in judged)
    rng = np.random.default_rng(0)
    tried = range(max(1, min(_MOST_WALKS, _WALKED_ROWS // rows)))
    predicted = [found for _ in tried if (found := _predicted_walk(judged, settings, rng))]
    if not predicted:
        return {}
    index = pd.DatetimeIndex(predicted[0][1].index)  # the same of every walk
    times, moments = np.unique(index.as_unit("ns").asi8, return_inverse=True)
    bootstrap = Bootstrap(len(times), block).at(moments)
    scores = []
    for prediction, held_out in predicted:
        labels = held_out["position"].to_numpy() > 0
        decided = decided_scores(prediction, labels, held_out["decided"].to_numpy(), bootstrap)
        scores.append(score(prediction, labels, bootstrap) | decided)
    return {
        name: bootstrap.estimate(np.mean([scored[name] for scored in scores], axis=0), least=0)
        for name in (ACCURACY, LOG_LOSS, DECIDED_ACCURACY, DECIDED_LOSS)
    }


def _predicted_walk(
    instruments: Sequence[Instrument], settings: Settings, rng: np.random.Generator
) -> tuple[Prediction, pd.DataFrame] | None:
    """What the regression says on one walk, and the rows that it says it of; None where it has none."""
    walks = [walk for each in instruments if (walk := _walk_of(each, settings, rng))]
    prediction = fitted_regression(walks, settings)
    if prediction is None:
        return None
    return prediction, pd.concat([walk.history.iloc[walk.predicted] for walk in walks])


def _walk_of(instrument: Instrument, settings: Settings, rng: np.random.Generator) -> Instrument | None:
    """A history with a random sign on each of its returns and labels of its own; the rows are those that have one.

    The spread stays the same share of the price. None where no row has a label.
    """
    history = instrument.history
    mid = history["mid"].to_numpy(np.float64)
    signs = rng.choice([-1.0, 1.0], len(mid))
    walk = mid[0] * np.exp(np.cumsum(signs * np.diff(np.log(mid), prepend=np.log(mid[0]))))
    half_spread = spreads_of(history, settings.spread) / 2 * (walk / mid)
    frame = pd.DataFrame({"bid": walk - half_spread, "ask": walk + half_spread, "mid": walk}, history.index)
    try:
        labelled = optimal_positions(frame, settings.horizon, max_gap=settings.max_gap)
    except UserError:
        return None
    slim = pd.DataFrame(  # of many instruments the rest would fill the memory
        {"mid": labelled["mid"], "position": labelled["position"].astype(np.int8), "decided": decided_bars(labelled)}
    )
    kept = history.index.searchsorted(labelled.index)
    probability = np.full(len(mid), np.nan)
    probability[len(mid) - len(instrument.probability) :] = instrument.probability
    return Instrument(slim, int(np.searchsorted(kept, instrument.training)), probability[kept], instrument.name)
