"""The report of a job: one page that needs nothing but a browser, its pictures as files, and every held-out minute.

matplotlib and Jinja are imported when the report is drawn, long after the first epoch.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml.judge.performance import DAY, HOLDING, MODEL, OPTIMAL, Estimate, Performance

PAGE, MINUTES = "report.html", "positions.parquet"

# Okabe and Ito's, told apart by everybody
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#e69f00", "#009e73", "#666666"
_INCHES = (4.4, 3.0)  # that the text is readable at a phone's width
_DOTS_AN_INCH = 220
_STRETCHES, _STRETCH_DAYS = 4, 3
_POINTS = 2000  # of a curve: more cannot be seen
_SCORES = {"log_loss": "log-loss", "brier": "Brier score", "ece": "calibration error", "auc": "ROC AUC"}
_FOLD_COLUMNS = {
    "fold": "fold",
    "train_rows": "trained rows",
    "first": "held out from",
    "last": "to",
    "best_epoch": "epoch kept",
    "val_accuracy": "accuracy",
    "best_baseline": "best baseline",
    "val_baseline_accuracy": "its accuracy",
    "val_accuracy_gain": "gain",
    "val_accuracy_gain_low": "at least",
    "val_accuracy_gain_high": "at most",
    "val_auc": "ROC AUC",
    "val_log_loss": "log-loss",
    "val_pnl": "profit",
    "val_sharpe": "Sharpe ratio a year",
}


def write_report(
    folder: Path, record: dict[str, Any], metrics: dict[str, Any], history: pd.DataFrame, performance: Performance
) -> Path:
    """Writes the page, its pictures and the held-out minutes.

    Args:
        folder: output/data.
        record: as in job.json.
        metrics: as in metrics.json.
        history: the whole price history, mid and position.
        performance: of the model that is kept.

    Returns:
        The page's path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    performance.frame.to_parquet(folder / MINUTES)
    pictures = {}
    for name, group, title, figure in _figures(metrics, history, performance):
        content = _png(figure)
        (folder / f"{name}.png").write_bytes(content)
        pictures.setdefault(group, []).append((title, base64.b64encode(content).decode("ascii")))
    temporary = folder / f".writing-{PAGE}"
    temporary.write_text(_page(record, metrics, performance, pictures), encoding="utf-8")
    return temporary.replace(folder / PAGE)


def _page(record, metrics, performance: Performance, pictures) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "estimate": _estimate, "moment": "{:%Y-%m-%d %H:%M}".format}
    template = environment.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    others = sorted(
        (name for name in performance.scores if name != MODEL),
        key=lambda name: -performance.scores[name]["accuracy"].value,
    )
    return template.render(
        record=record,
        metrics=metrics,
        performance=performance,
        pictures=pictures,
        names=[MODEL, *others],
        model=MODEL,
        scores=_SCORES,
        threshold=record["settings"]["threshold"],
        fold_columns=_FOLD_COLUMNS,
    )


def _number(value: Any) -> str:
    """A number as people read it: four digits, or thousands apart."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def _estimate(estimate: Estimate):
    """The number and below it, smaller, its interval."""
    from markupsafe import Markup

    interval = "" if np.isnan(estimate.low) else f"{_number(estimate.low)} to {_number(estimate.high)}"
    return Markup("{}<small>{}</small>").format(_number(estimate.value), interval)


# Pictures


def _figures(metrics, history: pd.DataFrame, performance: Performance) -> Iterator[tuple]:
    """Name, place in the page, title and figure of each picture."""
    yield from (_loss(metrics), _accuracy(metrics, performance))
    frame = performance.frame
    for number, first in enumerate(stretches(len(frame)), 1):
        yield _position(number, frame.iloc[first : first + _STRETCH_DAYS * DAY])
    followed = [MODEL, performance.best_baseline, HOLDING]
    yield _profit("profit", "Profit of following the prediction", performance, followed)
    yield _profit("profit_optimal", "The same beside the optimal position", performance, [*followed, OPTIMAL])
    yield _calibration(performance)
    yield _data(history, performance)


def stretches(rows: int) -> Sequence[int]:
    """First rows of the stretches of days that are drawn: evenly spread over the held-out rows, never chosen."""
    length = _STRETCH_DAYS * DAY
    count = min(_STRETCHES, max(1, rows // length))
    return np.linspace(0, max(rows - length, 0), count).astype(int).tolist()


def _axes(title: str, x: str = "", y: str = "", **options):
    from matplotlib.figure import Figure  # no pyplot: no state, no display

    axes = Figure(figsize=_INCHES, layout="constrained").subplots(**options)
    for each in np.atleast_1d(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="#dddddd", linewidth=0.6)
        each.set_axisbelow(True)
    first = np.atleast_1d(axes)[0]
    first.set_title(title, loc="left", fontsize=10)
    first.set_xlabel(x)
    first.set_ylabel(y)
    return axes


def _dates(axis) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator))


def _thinned(frame):
    """Every n-th row, so that few enough are left to draw."""
    return frame.iloc[:: -(-len(frame) // _POINTS)]


def _legend(figure, columns: int) -> None:
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=1.5, columnspacing=1
    )


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_AN_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _epochs(metrics, axes, name: str) -> None:
    """The training's and the validation's curve of a metric, the kept epoch marked."""
    from matplotlib.ticker import MaxNLocator

    epochs = [epoch["epoch"] for epoch in metrics["epochs"]]
    for prefix, label, color in (("", "training", _BLUE), ("val_", "held out", _ORANGE)):
        values = [np.nan if epoch[prefix + name] is None else epoch[prefix + name] for epoch in metrics["epochs"]]
        axes.plot(epochs, values, color=color, marker="o", markersize=3, label=label)
    kept = metrics["best_epoch"]
    axes.plot(
        [kept],
        [metrics["epochs"][kept - 1][f"val_{name}"]],
        "D",
        color=_ORANGE,
        fillstyle="none",
        markersize=9,
        label="kept",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(axes.figure, 4)


def _loss(metrics):
    axes = _axes("Loss", "epoch", "cross-entropy")
    _epochs(metrics, axes, "loss")
    return "loss", "learning", "Cross-entropy of each epoch", axes.figure


def _accuracy(metrics, performance: Performance):
    axes = _axes("Accuracy", "epoch", "share predicted right")
    best = performance.scores[performance.best_baseline]["accuracy"].value
    axes.axhline(best, color=_GREY, linestyle="--", linewidth=1, label="best baseline")
    _epochs(metrics, axes, "accuracy")
    return "accuracy", "learning", "Accuracy of each epoch, with the best baseline's on the held-out rows", axes.figure


def _position(number: int, part: pd.DataFrame):
    first, last = (f"{moment:%Y-%m-%d}" for moment in (part.index[0], part.index[-1]))
    price, bands = _axes(f"{first} to {last}", y="price", nrows=2, sharex=True, height_ratios=(4, 1))
    price.plot(part.index, part["mid"], color=_GREY, linewidth=0.8)
    for level, column, color, label in (
        (1, "optimal_position", _ORANGE, "optimal position long"),
        (0, "prediction", _BLUE, "prediction long"),
    ):
        bands.fill_between(
            part.index,
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
    bands.set_xlim(part.index[0], part.index[-1])
    _dates(bands.xaxis)
    _legend(price.figure, 2)
    return f"position_{number}", "positions", f"Optimal position and prediction, {first} to {last}", price.figure


def _profit(name: str, title: str, performance: Performance, shown: list[str]):
    axes = _axes(title, y="price units")
    colors = {MODEL: _BLUE, performance.best_baseline: _GREEN, HOLDING: _GREY, OPTIMAL: _ORANGE}
    curves = _thinned(performance.curves)
    for each in shown:
        axes.plot(curves.index, curves[each], color=colors[each], linewidth=1.2, label=each)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _dates(axes.xaxis)
    _legend(axes.figure, 2)
    return name, "profit", title, axes.figure


def _calibration(performance: Performance):
    axes = _axes("Calibration", "predicted probability of buy", "share of buys")
    curve = performance.calibration
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="calibrated")
    axes.plot(curve["probability"], curve["share"], color=_BLUE, linewidth=1)
    axes.scatter(
        curve["probability"],
        curve["share"],
        10 + 200 * curve["rows"] / curve["rows"].sum(),
        color=_BLUE,
        label="model (area: minutes)",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _legend(axes.figure, 2)
    return "calibration", "calibration", "Predicted probability against what came", axes.figure


def _data(history: pd.DataFrame, performance: Performance):
    axes = _axes("Prices", y="mid")
    prices = _thinned(history["mid"])
    axes.plot(prices.index, prices, color=_GREY, linewidth=0.8, label="mid")
    axes.axvspan(
        performance.frame.index[0], performance.frame.index[-1], color=_ORANGE, alpha=0.3, linewidth=0, label="held out"
    )
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _dates(axes.xaxis)
    _legend(axes.figure, 2)
    return "data", "data", "Prices, the held-out part shaded", axes.figure
