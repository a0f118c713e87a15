"""What a job came to, by its own word: what it left in its folder, whatever became of the process that owned it.

Standard library only.
"""

import contextlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from place.hosts import folder_of_host, host_names_in
from place.record import LOG, metric_definitions_of, metrics_in
from place.record_shape import fits_metrics

_FAILURE_CHARACTERS = 1024  # that SageMaker keeps
_MOST_BYTES = 100_000_000  # of a metrics.json


def failure_text(folder: Path) -> str:
    """What a job wrote into output/failure, shortened as SageMaker does; empty where it did not."""
    try:
        with (folder / "output" / "failure").open(encoding="utf-8", errors="replace") as file:
            return file.read(4 * _FAILURE_CHARACTERS).strip()[:_FAILURE_CHARACTERS]
    except OSError:
        return ""


def failure_of(folder: Path, hosts: list[str], host: str) -> str:
    """What a host of a job wrote into output/failure; empty where it did not.

    Where the job has several hosts, the names of those that left the same words come first.
    """
    text = failure_text(folder_of_host(folder, host))
    if not text or len(hosts) == 1:
        return text
    same = [name for name in hosts if failure_text(folder_of_host(folder, name)) == text]
    return f"{', '.join(same)}: {text}"


def final_metrics(folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The last value of each metric in a job's log, as DescribeTrainingJob lists them."""
    log = ""
    with contextlib.suppress(OSError):
        log = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    found = metrics_in(log, metric_definitions_of(record))
    return [{"MetricName": name, "Value": values[-1]} for name, values in found.items() if values]


def outcome_of(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The end of a job that runs no more and whose runner could not write it down; empty where it left no word.

    The words are output/failure and output/success, which SageMaker's toolkit writes, of each host, and a whole
    metrics.json.
    """
    hosts = host_names_in(record)
    texts = {host: text for host in hosts if (text := failure_of(folder, hosts, host))}
    if texts:
        first = next(iter(texts))
        status, mark = "Failed", folder_of_host(folder, first) / "output" / "failure"
        told = {"FailureReason": f"AlgorithmError: {texts[first]}"}
    else:
        metrics = read_metrics(folder / "model")
        stopped = metrics.get("stopped") or record["TrainingJobStatus"] == "Stopping"
        status, told = "Stopped" if stopped else "Completed", {}
        if all((folder_of_host(folder, host) / "output" / "success").is_file() for host in hosts):
            mark = folder / "output" / "success"
        elif len(hosts) == 1 and _are_last(metrics, record.get("HyperParameters", {})):
            mark = folder / "model" / "metrics.json"
        else:
            return {}
    ended = datetime.fromtimestamp(mark.stat().st_mtime, timezone.utc)
    return {
        "TrainingJobStatus": status,
        "SecondaryStatus": status,
        "TrainingEndTime": ended.isoformat(timespec="milliseconds"),
        "FinalMetricDataList": final_metrics(folder, record),
        **told,
    }


def _are_last(metrics: dict[str, Any], settings: dict[str, str]) -> bool:
    """Whether a metrics.json is as a job leaves it at its end: with what was asked for after the measuring."""
    if metrics.get("stopped"):
        return True
    refit = str(settings.get("refit", "false")).lower() == "true"
    then = "published" if settings.get("model_db") else "refit" if refit else "performance"
    return "performance" in metrics and metrics.get(then) is not None


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics.json in a job's model/; empty where there is none, or where it is none of ours.

    More is let through than `ml.deliver.results.read_metrics` would: what is shown of it is made harmless there.
    """
    path = folder / "metrics.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_BYTES else None
        if fits_metrics(content):
            return content
    return {}


def measured_values(folder: Path, metric: str) -> list[float]:
    """A metric's values in metrics.json, one an epoch, or the one of the job."""
    metrics = read_metrics(folder / "model")
    once = metrics.get("performance", {}).get("metrics", {})
    values = [once[metric]] if metric in once else [epoch.get(metric) for epoch in metrics.get("epochs", ())]
    return [float(value) for value in values if isinstance(value, int | float)]
