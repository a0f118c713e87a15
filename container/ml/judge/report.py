"""The report of a job: one page that needs nothing but a browser, its pictures as files, and every bar it is judged on.

matplotlib and Jinja are imported when the report is drawn, long after the first epoch.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml import metrics as names
from ml.digits import amount, amounts, share
from ml.files import write_whole
from ml.judge.bars import DAY, bars_of, counted, missing_bars, moment_format
from ml.judge.bootstrap import Estimate
from ml.judge.decided import DECIDED_ACCURACY, DECIDED_LOSS, RANDOM_WALK
from ml.judge.held_out import HOLDING, MODEL, OPTIMAL, InstrumentScore
from ml.judge.performance import TEST, VALIDATION, Performance
from ml.judge.scores import ACCURACY, AUC, BRIER, ECE, LOG_LOSS
from ml.metrics import METRICS
from ml.page import BLUE, GREEN, GREY, ORANGE, chart, date_ticks, legend, number_ticks, plain, rendered
from ml.segments import instrument_slices

PAGE, POSITIONS = "report.html", "positions.parquet"

_DOTS_PER_INCH = 220
_STRETCHES, _STRETCH = 4, 4320  # how many are drawn, and their bars: three days of minutes
_MOST_ROWS = 20  # of the table of instruments: with more, the first and the last ones are shown, the rest is folded
_NAME = 20  # characters of an instrument's name on a picture
_POINTS = 2000  # of a curve: more cannot be seen
_SCORES = {LOG_LOSS: "log-loss", BRIER: "Brier score", ECE: "calibration error", AUC: "ROC AUC"}
_FOLD_COLUMNS = {
    "fold": "fold",
    "train_rows": "trained rows",
    "first": "validated from",
    "last": "to",
    "best_epoch": "epoch kept",
    names.VAL_ACCURACY: METRICS[names.VAL_ACCURACY].title,
    "best_baseline": "best baseline",
    **{
        name: METRICS[name].title
        for name in (
            names.VAL_BASELINE_ACCURACY,
            names.VAL_ACCURACY_GAIN,
            names.VAL_ACCURACY_GAIN_LOW,
            names.VAL_ACCURACY_GAIN_HIGH,
            names.VAL_AUC,
            names.VAL_LOG_LOSS,
            names.VAL_PNL,
            names.VAL_SHARPE,
        )
    },
}


def write_report(
    folder: Path, record: dict[str, Any], metrics: dict[str, Any], history: pd.DataFrame, performance: Performance
) -> Path:
    """Writes the page, its pictures and the bars of the part that the model is judged on.

    Args:
        folder: output/data.
        record: as in job.json.
        metrics: as in metrics.json, with `performance` of the same.
        history: the whole price history, mid and position.
        performance: of the model that is kept, on the test part or, where there is none, the validation part.

    Returns:
        The page's path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    performance.frame.to_parquet(folder / POSITIONS)
    pictures: dict[str, list[tuple[str, str]]] = {}
    for name, group, title, figure in _figures(metrics, history, performance):
        content = _png(figure)
        (folder / f"{name}.png").write_bytes(content)
        pictures.setdefault(group, []).append((title, base64.b64encode(content).decode("ascii")))
    page = _page(record, metrics, history, performance, pictures)
    write_whole(folder / PAGE, page)
    return folder / PAGE


def _page(record, metrics, history: pd.DataFrame, performance: Performance, pictures) -> str:
    bar = performance.bar
    others = sorted(
        (name for name in performance.scores if name != MODEL),
        key=lambda name: -performance.scores[name][ACCURACY].value,
    )
    return rendered(
        Path(__file__).parent / "report.html",
        {
            "record": record,
            "performance": performance,
            "pictures": pictures,
            "names": [MODEL, *others],
            "model": MODEL,
            "scores": _shown_scores(performance),
            "random_walk": RANDOM_WALK,
            "threshold": record["settings"]["threshold"],
            "fee": record["settings"]["fee"],
            "spread": performance.has_spread,
            "part": performance.part,
            "tested": performance.part == TEST,
            "look": metrics["performance"].get("look"),
            "validation": metrics.get("validation"),
            "epochs_kept": metrics["best_epoch"],
            "folds": _fold_table(metrics["folds"], bar) if metrics["folds"] else [],
            "luck": metrics.get("luck"),
            "instruments": _instrument_rows(performance.instruments),
            "most_rows": _MOST_ROWS,
            "scored_rows": int(performance.frame["probability"].notna().sum()),
            "first": history.index.min(),
            "last": history.index.max(),
            "held_from": performance.frame.index.min(),
            "held_to": performance.frame.index.max(),
            "bars": bars_of(bar),
            "sharpe_known": not np.isnan(performance.trading[MODEL]["sharpe"]),
            "missing": missing_bars([history.index[rows] for rows in instrument_slices(history).values()], bar),
        },
        {
            "number": "{:,}".format,
            "counted": lambda count: counted(count, bar),
            "moment": lambda moment: f"{moment:{moment_format(bar)}}",
            "amount": amount,
            "scored": lambda estimate: _with_interval(estimate, [share(value) for value in estimate]),
            "profit": lambda estimate: _with_interval(estimate, amounts(estimate)),
        },
    )


def _shown_scores(performance: Performance) -> dict[str, str]:
    """Names and titles of the scores beside the accuracy; those on decided bars where they are known."""
    decided = {DECIDED_ACCURACY: "accuracy, decided bars", DECIDED_LOSS: "log-loss, decided bars"}
    return (decided if performance.decided_verdict else {}) | _SCORES


def _instrument_rows(instruments: Sequence[InstrumentScore]) -> list[list]:
    """A row of the table for each instrument: its name, its rows, scores and profits with their intervals."""
    points = amounts([number for each in instruments for number in each.pnl_basis_points])
    return [
        [
            each.symbol,
            _with_interval(each.gain, [share(value, "+") for value in each.gain]),
            _with_interval(each.pnl_basis_points, points[3 * number : 3 * number + 3]),
            share(each.accuracy),
            share(each.baseline_accuracy),
            _with_interval(each.pnl, amounts(each.pnl)),
            f"{each.rows:,}",
        ]
        for number, each in enumerate(instruments)
    ]


def _with_interval(estimate: Estimate, texts: Sequence[str]):
    """The number and below it, smaller, its interval."""
    from markupsafe import Markup

    value, low, high = texts
    return Markup("{}<small>{}</small>").format(value, "" if np.isnan(estimate.low) else f"{low} to {high}")


def _fold_table(folds: Sequence[dict[str, Any]], bar: pd.Timedelta) -> list[Sequence[str]]:
    """The titles and a row for each fold, as text."""

    def texts(name: str) -> list[str]:
        values = [fold[name] for fold in folds]
        if name in ("first", "last"):
            return [f"{pd.Timestamp(value):{moment_format(bar)}}" for value in values]
        if name not in METRICS:
            return [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        values = [float("nan") if value is None else value for value in values]
        return amounts(values) if name == names.VAL_PNL else [share(value) for value in values]

    return [list(_FOLD_COLUMNS.values()), *zip(*map(texts, _FOLD_COLUMNS), strict=True)]


# Pictures


def _figures(metrics, history: pd.DataFrame, performance: Performance) -> Iterator[tuple]:
    """Name, place in the page, title and figure of each picture."""
    yield from (_loss(metrics), _accuracy(metrics))
    frame, bar = performance.frame, performance.bar
    shown = shown_instruments(performance.instruments)
    if not shown:
        for number, first in enumerate(stretches(len(frame)), 1):
            yield _position(f"position_{number}", frame.iloc[first : first + _STRETCH], bar)
    for which, symbol in shown.items():
        rows = frame[frame["symbol"] == symbol]
        first = stretches(len(rows))[-1] // 2
        yield _position(f"position_{which}", rows.iloc[first : first + _STRETCH], bar, f"{which}: {symbol[:_NAME]}")
    followed = [MODEL, performance.best_baseline, HOLDING]
    yield _profit("profit", "Profit of following the prediction", performance, followed)
    yield _profit("profit_optimal", "The same beside the optimal position", performance, [*followed, OPTIMAL])
    yield _calibration(performance)
    yield _data(metrics, history, performance, shown)


def shown_instruments(instruments: Sequence[InstrumentScore]) -> dict[str, str]:
    """The instruments that pictures show, of scores from the highest gain down: name by `best`, `median`, `worst`."""
    if not instruments:
        return {}
    places = {"best": 0, "median": len(instruments) // 2, "worst": len(instruments) - 1}
    shown = {which: instruments[place].symbol for which, place in places.items()}
    if len(instruments) == 2:
        del shown["median"]
    return shown


def stretches(rows: int) -> Sequence[int]:
    """First rows of the stretches that are drawn: evenly spread over the judged rows, never chosen."""
    count = min(_STRETCHES, max(1, rows // _STRETCH))
    return np.linspace(0, max(rows - _STRETCH, 0), count).astype(int).tolist()


def _thinned(frame):
    """Every n-th row, so that few enough are left to draw."""
    return frame.iloc[:: -(-len(frame) // _POINTS)]


def _times(frame) -> pd.DatetimeIndex:
    """The times of its rows without their zone, UTC: matplotlib converts times with a zone one by one."""
    return frame.index.tz_localize(None)


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _epochs(metrics, axes, training: str, validation: str) -> None:
    """The training's and the validation's curve of a metric, the kept epoch marked; without validation the first."""
    from matplotlib.ticker import MaxNLocator

    epochs = [epoch["epoch"] for epoch in metrics["epochs"]]
    for name, label, color in ((training, "training", BLUE), (validation, VALIDATION, ORANGE)):
        if name not in metrics["epochs"][0]:
            continue
        values = [np.nan if epoch[name] is None else epoch[name] for epoch in metrics["epochs"]]
        axes.plot(epochs, values, color=color, marker="o", markersize=3, label=label)
    kept = metrics["best_epoch"]
    if validation in metrics["epochs"][0]:
        value = metrics["epochs"][kept - 1][validation]
        axes.plot([kept], [value], "D", color=ORANGE, fillstyle="none", markersize=9, label="kept")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    number_ticks(axes.yaxis)
    legend(axes.figure, 4)


def _loss(metrics):
    axes = chart("Loss", "epoch", "cross-entropy")
    _epochs(metrics, axes, names.LOSS, names.VAL_LOSS)
    return "loss", "learning", "Cross-entropy of each epoch", axes.figure


def _accuracy(metrics):
    axes = chart("Accuracy", "epoch", "share predicted right")
    title = "Accuracy of each epoch"
    best = metrics["performance"]["metrics"].get(names.VAL_BASELINE_ACCURACY)
    if best is not None:
        axes.axhline(best, color=GREY, linestyle="--", linewidth=1, label="best baseline")
        title += ", with the best baseline's on the validation rows"
    _epochs(metrics, axes, names.ACCURACY, names.VAL_ACCURACY)
    return "accuracy", "learning", title, axes.figure


def _position(name: str, part: pd.DataFrame, bar: pd.Timedelta, whose: str = ""):
    style = "%Y-%m-%d" if part.index[-1] - part.index[0] > DAY else moment_format(bar)
    first, last = (f"{moment:{style}}" for moment in (part.index[0], part.index[-1]))
    when = f"{first} to {last}"
    # Each on a line of its own: together they are wider than the picture.
    price, bands = chart(f"{whose}\n{when}" if whose else when, y="price", nrows=2, sharex=True, height_ratios=(4, 1))
    times = _times(part)
    price.plot(times, part["mid"], color=GREY, linewidth=0.8)
    number_ticks(price.yaxis)
    for level, column, color, label in (
        (1, "optimal_position", ORANGE, "optimal position long"),
        (0, "prediction", BLUE, "prediction long"),
    ):
        bands.fill_between(
            times,
            level + 0.08,
            level + 0.92,
            where=part[column] > 0,
            step="post",
            color=color,
            linewidth=0,
            label=label,
        )
    bands.set_yticks([])
    bands.set_ylim(0, 2)
    bands.spines["left"].set_visible(False)
    bands.set_xlim(times[0], times[-1])
    date_ticks(bands.xaxis)
    legend(price.figure, 2)
    return name, "positions", f"Optimal position and prediction, {f'{whose}, ' if whose else ''}{when}", price.figure


def _profit(name: str, title: str, performance: Performance, shown: list[str]):
    axes = chart(title, y=performance.unit)
    colors = {MODEL: BLUE, performance.best_baseline: GREEN, HOLDING: GREY, OPTIMAL: ORANGE}
    curves = _thinned(performance.curves)
    for each in shown:
        axes.plot(_times(curves), curves[each], color=colors[each], linewidth=1.2, label=plain(each))
    number_ticks(axes.yaxis)
    date_ticks(axes.xaxis)
    legend(axes.figure, 2)
    return name, "profit", title, axes.figure


def _calibration(performance: Performance):
    axes = chart("Calibration", "predicted probability of buy", "share of buys")
    curve = performance.calibration
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    axes.plot(curve["probability"], curve["share"], color=BLUE, linewidth=1)
    axes.scatter(
        curve["probability"],
        curve["share"],
        10 + 200 * curve["rows"] / curve["rows"].sum(),
        color=BLUE,
        clip_on=False,
        label="model (area: rows)",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    legend(axes.figure, 2)
    return "calibration", "calibration", "Predicted probability against what came", axes.figure


def _data(metrics, history: pd.DataFrame, performance: Performance, shown: dict[str, str]):
    of_several = bool(shown)
    axes = chart("Prices", y="share of the first price" if of_several else "mid")
    colors = iter((BLUE, GREY, GREEN))
    slices = instrument_slices(history)
    for which, symbol in (shown or {"": ""}).items():
        prices = _thinned(history["mid"].iloc[slices[symbol]]).astype(float)
        if of_several:
            axes.plot(
                _times(prices),
                prices / prices.iloc[0],
                color=next(colors),
                linewidth=0.8,
                label=plain(f"{which}: {symbol[:_NAME]}"),
            )
        else:
            axes.plot(_times(prices), prices, color=GREY, linewidth=0.8, label="mid")
    frame, part = performance.frame, performance.part
    if part == TEST and metrics["folds"]:
        first, last = (pd.Timestamp(metrics["folds"][-1][end]) for end in ("first", "last"))
        axes.axvspan(first, last, color=BLUE, alpha=0.2, linewidth=0, label=VALIDATION)
    axes.axvspan(frame.index.min(), frame.index.max(), color=ORANGE, alpha=0.3, linewidth=0, label=part)
    number_ticks(axes.yaxis)
    date_ticks(axes.xaxis)
    legend(axes.figure, 2)
    what = "Prices of the best, the median and the worst instrument" if of_several else "Prices"
    return "data", "data", f"{what}, the {part} part shaded", axes.figure
