"""What a tuning job came to: its trials in order, as a table, a CSV file and a page.

Trials are summaries in the words of ListTrainingJobsForHyperParameterTuningJob, so that a search on this
machine and one on SageMaker look the same.
"""

import base64
import csv
import io
from datetime import datetime
from pathlib import Path
from typing import Any

from ml.errors import redacted
from ml.files import write_whole
from ml.page import BLUE, GREY, ORANGE, chart, legend, number_ticks, plain, rendered
from request import objective_of, ranges_of, training_part

CSV = "leaderboard.csv"
PAGE = "leaderboard.html"

_COUNTED = ("Completed", "Stopped")  # statuses whose objective counts; a stopped job has been somewhere too


def objective_value(trial: dict[str, Any]) -> float | None:
    """The objective that a trial reached so far."""
    return trial.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value")


def ranked(trials: list[dict[str, Any]], *, maximize: bool) -> list[dict[str, Any]]:
    """The trials, the best first, those without an objective last."""
    sign = -1 if maximize else 1
    return sorted(trials, key=lambda trial: (objective_value(trial) is None, sign * (objective_value(trial) or 0)))


def best_of(trials: list[dict[str, Any]], *, maximize: bool) -> dict[str, Any] | None:
    """The best trial that ended with an objective."""
    ended = [trial for trial in trials if trial["TrainingJobStatus"] in _COUNTED and objective_value(trial) is not None]
    return ranked(ended, maximize=maximize)[0] if ended else None


def table(tuning: dict[str, Any], trials: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text, the best trial first."""
    metric, maximize = objective_of(tuning)
    tuned = [entry["Name"] for _, entry in ranges_of(tuning)]
    members = any("Member" in trial for trial in trials)  # of several only one has a model
    rows = []
    for rank, trial in enumerate(ranked(trials, maximize=maximize), 1):
        value, seconds = objective_value(trial), _seconds_of(trial)
        rows.append(
            [
                str(rank),
                trial["TrainingJobStatus"],
                "" if value is None else f"{value:.6g}",
                *(_cut(trial.get("TunedHyperParameters", {}).get(name, "")) for name in tuned),
                *(["kept" if trial.get("Kept", trial["TrainingJobStatus"] in _COUNTED) else ""] if members else []),
                "" if seconds is None else f"{seconds:.0f}",
                trial["TrainingJobName"],
            ]
        )
    # The job last: its name is long, and a narrow screen cuts at the end.
    return ["rank", "status", metric, *tuned, *(["model"] if members else []), "seconds", "job"], rows


def write_files(folder: Path, tuning: dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Writes the leaderboard's CSV and page into a folder, each whole or not at all."""
    columns, rows = table(tuning, trials)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([map(_without_spreadsheet_formula, row) for row in (columns, *rows)])
    for name, content in ((CSV, text.getvalue()), (PAGE, page(tuning, trials))):
        write_whole(folder / name, content)


def page(tuning: dict[str, Any], trials: list[dict[str, Any]]) -> str:
    """One HTML page with everything in it: no script, and nothing is fetched."""
    metric, maximize = objective_of(tuning)
    columns, rows = table(tuning, trials)
    best = best_of(trials, maximize=maximize)
    settings = training_part(tuning).get("StaticHyperParameters", {}) | (best or {}).get("TunedHyperParameters", {})
    settings = {name: redacted(value) for name, value in settings.items()}
    charts = []
    if any(objective_value(trial) is not None for trial in trials):
        charts.append((f"{metric} over time", _progress_chart(trials, metric, maximize)))
        charts += [
            (f"{metric} against {entry['Name']}", _range_chart(trials, metric, kind, entry, best))
            for kind, entry in ranges_of(tuning)
        ]
    return rendered(
        Path(__file__).parent / "leaderboard.html",
        {
            "tuning": tuning,
            "metric": metric,
            "maximize": maximize,
            "columns": columns,
            "rows": rows,
            "best": best,
            "best_value": best and f"{objective_value(best):.6g}",
            "settings": settings,
            "charts": charts,
        },
    )


def _cut(text: str) -> str:
    """A hyperparameter's value, cut to what a reader compares."""
    try:
        return text if float(text).is_integer() else f"{float(text):.4g}"
    except ValueError:
        return text


def _without_spreadsheet_formula(text: str) -> str:
    """A cell's text, which a spreadsheet shows and does not compute; numbers stay numbers."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text


def _parse_time(value: str | datetime) -> datetime:
    """A record's time is text, boto3's is none."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def _seconds_of(trial: dict[str, Any]) -> float | None:
    if "TrainingStartTime" not in trial or "TrainingEndTime" not in trial:
        return None
    return (_parse_time(trial["TrainingEndTime"]) - _parse_time(trial["TrainingStartTime"])).total_seconds()


# Charts: SVG pictures as data URLs, so that neither their names nor their styles meet


def _axes(label: str, metric: str) -> Any:
    axes = chart(x=label, y=metric)
    axes.margins(0.08)
    number_ticks(axes.yaxis)
    return axes


def _as_url(axes: Any) -> str:
    if axes.lines:
        legend(axes.figure, 4)
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _progress_chart(trials: list[dict[str, Any]], metric: str, maximize: bool) -> str:
    ended = sorted(
        (trial for trial in trials if objective_value(trial) is not None and "TrainingEndTime" in trial),
        key=lambda trial: _parse_time(trial["TrainingEndTime"]),
    )
    axes = _axes("minutes since the start", metric)
    if ended:
        start = min(_parse_time(trial["CreationTime"]) for trial in trials)
        minutes = [(_parse_time(trial["TrainingEndTime"]) - start).total_seconds() / 60 for trial in ended]
        values = [value for trial in ended if (value := objective_value(trial)) is not None]
        better = max if maximize else min
        axes.step(
            minutes,
            [better(values[:count]) for count in range(1, len(values) + 1)],
            where="post",
            color=ORANGE,
            label="best so far",
        )
        for status, marker in (("Completed", "o"), ("Stopped", "x")):
            points = [
                point
                for point, trial in zip(zip(minutes, values, strict=True), ended, strict=True)
                if trial["TrainingJobStatus"] == status
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=BLUE, label=status.lower())
    return _as_url(axes)


def _range_chart(
    trials: list[dict[str, Any]], metric: str, kind: str, entry: dict[str, Any], best: dict[str, Any] | None
) -> str:
    name = entry["Name"]
    axes = _axes(name, metric)
    categorical = kind == "CategoricalParameterRanges"
    if categorical:
        places = {str(value): index for index, value in enumerate(entry["Values"])}
        axes.set_xticks(list(places.values()), [plain(value) for value in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif entry.get("ScalingType") == "Logarithmic":
        axes.set_xscale("log", subs=[2, 5])
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_formatter("{x:g}")
    if not categorical:  # the whole range, however little of it was tried
        low, high = float(entry["MinValue"]), float(entry["MaxValue"])
        axes.set_xlim(low, high)
    for status, marker, color, label in (
        ("Completed", "o", BLUE, "completed"),
        ("Stopped", "x", BLUE, "stopped"),
        ("InProgress", "s", GREY, "running"),
    ):
        points = [
            (places[text] if categorical else float(text), value)
            for trial in trials
            if trial["TrainingJobStatus"] == status
            and (value := objective_value(trial)) is not None
            and (text := trial.get("TunedHyperParameters", {}).get(name)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=color, label=label, clip_on=False)
    if best and name in best.get("TunedHyperParameters", {}):
        text = best["TunedHyperParameters"][name]
        axes.plot(
            [places[text] if categorical else float(text)],
            [objective_value(best) or 0],
            "D",
            color=ORANGE,
            fillstyle="none",
            markersize=11,
            label="best",
            clip_on=False,
        )
    return _as_url(axes)
