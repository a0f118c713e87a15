"""Publishing a finished job's model to KYDB, after the job: from network isolation, or a tuning job's winner."""

import contextlib
from pathlib import Path
from typing import Any

from leaderboard import best_of, objective_value
from members import count_members, population_of
from ml.errors import UserError
from ml.hyperparameters import parse_value
from ml.settings import SETTINGS
from models import collect_model, find_h5_file, job_and_settings, model_files
from place.base import Job, Record
from place.outcome import read_metrics
from request import objective_of
from results import mark_published


def find_best_trial(job: Job) -> Record:
    """The summary of a tuning job's best trial, or of the best member of a training job's population.

    Raises:
        UserError: it is a training job of one network, or no trial has ended with an objective yet.
    """
    record = job.describe()
    if job.tuning:
        found = best_of(job.trials(), maximize=objective_of(record)[1])
    elif count_members(record.get("HyperParameters", {})) > 1:
        _, trials = population_of(record, read_metrics(job.place.collect(job.name) / "model"))
        found = next((trial for trial in trials if trial["Kept"] and objective_value(trial) is not None), None)
    else:
        raise UserError(f"{job.name} is a training job of one network; name a tuning job")
    if found is None:
        raise UserError(f"no trial of {job.name} has ended with an objective yet; `status {job.name}` shows them")
    return found


def publish_model(
    job: Job, model_db: str | None, model_key: str | None, *, replace_lookback: bool = False
) -> tuple[dict[str, Any], Path]:
    """Puts the .h5 file of a finished training job under a key of a KYDB.

    Args:
        job: the training job.
        model_db: KYDB URL; None: the job's own.
        model_key: KYDB key; None: the job's own.
        replace_lookback: whether it may take the place of a model that takes another number of prices.

    Returns:
        What was published where, in the words of `publish --json`, and the job's folder.

    Raises:
        UserError: the job has no model worth publishing, or no KYDB is named, or KYDB refuses.
    """
    record = job.describe()
    if record["TrainingJobStatus"] not in ("Completed", "Stopped"):
        raise UserError(
            f"{job.name} is {record['TrainingJobStatus']}; only a job that ended well has a model to publish"
        )
    folder = collect_model(job)
    parameters = record.get("HyperParameters", {})
    own = (parameters.get("model_db"), parameters.get("model_key", SETTINGS["model_key"].default))
    url, key = parse_value("model_db", model_db or own[0] or ""), parse_value("model_key", model_key or own[1])
    if not url:
        raise UserError(f"{job.name} names no KYDB to publish to; give --model-db URL")
    published = _publish_folder(folder / "model", job.name, url, key, own[1], replace_lookback)
    if (metrics := read_metrics(folder / "model")) and (url, key) == own:
        mark_published(folder, metrics)
    return published, folder


def publish_path(
    path: Path, model_db: str | None, model_key: str | None, *, replace_lookback: bool = False
) -> dict[str, Any]:
    """Publishes a model that no job of this launcher left, such as one of an SDK's local mode.

    Args:
        path: a folder or model.tar.gz.
        model_db: KYDB URL; None: the one in the model's job.json.
        model_key: KYDB key; None: the one in the model's job.json.
        replace_lookback: as in `publish_model`.

    Returns:
        As `publish_model`.

    Raises:
        UserError: as `publish_model`.
    """
    with model_files(path) as folder:
        name, settings = job_and_settings(folder)
        own_key = settings.get("model_key", str(SETTINGS["model_key"].default))
        url = parse_value("model_db", model_db or settings.get("model_db", ""))
        if not url:
            raise UserError(f"{path} names no KYDB to publish to; give --model-db URL")
        published = _publish_folder(
            folder, name, url, parse_value("model_key", model_key or own_key), own_key, replace_lookback
        )
    return published | {"File": str(path)}


def _publish_folder(
    folder: Path, name: str, url: str, key: str, own_key: str, replace_lookback: bool
) -> dict[str, Any]:
    if read_metrics(folder).get("best_epoch") == 0:
        raise UserError(f"{name} was stopped before its first epoch ended; its model is not worth publishing")
    path = find_h5_file(folder, own_key)
    from ml.deliver import publishing  # with kydb and pandas, which no other command needs
    from ml.deliver.results import MEASURED_FOLDER, read_job_record
    from ml.deliver.results import read_metrics as read_whole_metrics

    about = measured = None
    with contextlib.suppress(FileNotFoundError):  # then the record says what the .h5 file itself says
        about = publishing.description(read_job_record(folder), read_whole_metrics(folder))
    if about and about["measured_sha256"]:
        measured = _read_measured(folder / MEASURED_FOLDER / path.name)
    content = path.read_bytes()
    publishing.publish(url, key, content, name, about=about, measured=measured, replace_lookback=replace_lookback)
    return {"TrainingJobName": name, "ModelDb": url, "ModelKey": key, "File": str(path)}


def _read_measured(path: Path) -> bytes:
    """The model that a refit's verdict is of, which later models are compared with.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the model is a refit, and {path}, the one that was measured, cannot be read: {error.strerror}"
        ) from None
