"""metrics.json and job.json in model/: what a job measured, and what its model was made from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml.deliver.model_store import library_versions
from ml.errors import redacted
from ml.settings import Settings

METRICS_FILE, JOB_FILE = "metrics.json", "job.json"


def job_record(*, job: str, instance_type: str, settings: Settings, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is made from (job.json).

    Args:
        job: the job's name.
        instance_type: SageMaker's name of the instance, empty where unknown.
        settings: every hyperparameter; URLs are kept without secrets, dates as text.
        data: the prices: rows, times, gaps, hash, rows of each part.
    """
    values = {
        name: str(value) if name in ("start_date", "end_date") and value else value
        for name, value in dataclasses.asdict(settings).items()
    }
    values |= {name: redacted(values[name]) for name in ("prices_db", "model_db")}
    return {
        "job": job,
        "instance_type": instance_type,
        "settings": values,
        "data": dict(data),
        "libraries": library_versions(),
    }


def metrics_of(
    *, job: str, history: Sequence[Mapping[str, float]], best_epoch: int, stopped: bool = False
) -> dict[str, Any]:
    """What a training measured (metrics.json).

    Args:
        job: the job's name.
        history: metrics of each epoch, by name.
        best_epoch: the epoch whose weights are kept, from 1; 0: none was measured.
        stopped: whether the job was asked to end.
    """
    return {
        "job": job,
        "best_epoch": best_epoch,
        "stopped": stopped,
        "published": None,
        "best": dict(history[best_epoch - 1]) if best_epoch else {},
        "epochs": [{"epoch": number} | dict(epoch) for number, epoch in enumerate(history, 1)],
    }
