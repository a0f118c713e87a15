"""A training job, from what SageMaker asked for to a published model.

The sagemaker-training toolkit's `train` command runs `main` (SAGEMAKER_TRAINING_MODULE=train:main) in its
own process, so that the signals SageMaker sends arrive here.
"""

import functools
from pathlib import Path
from typing import Any

from ml.data.prices import labelled_prices
from ml.databases import configure_aws
from ml.deliver.model_store import ModelTarget, check_folder, h5_content, save_model
from ml.deliver.results import job_record, metrics_of
from ml.errors import UserError
from ml.files import write_json
from ml.judge.judging import judge_models
from ml.learn.fold_training import Places, train_fold
from ml.learn.folds import Fold, Outcome, folds_of, rows_of_parts, train_in_turn
from ml.learn.folds import described as described_folds
from ml.log import say
from ml.platform.failure import failures_reported
from ml.platform.hardware import find_instance
from ml.platform.job import Job, base_folder, read_job
from ml.platform.memory import check_memory
from ml.platform.stop import StopSignal
from ml.settings import Settings, parse_settings


def main() -> None:
    """Runs the job under SAGEMAKER_BASE_DIR (default /opt/ml); raises where it failed."""
    stop = StopSignal()
    base = base_folder()
    with failures_reported(base):
        job = read_job(base)
        settings = parse_settings(job.hyperparameters)
        job.refuse_several_hosts()
        configure_aws(settings.kydb_timeout)
        check_folder(job.model, settings.weights)
        target = _target(job, settings)
        try:
            if target:
                target.check(settings, given_up=stop)
            prices = labelled_prices(settings, job.channels, given_up=stop)
        except UserError:
            if not stop():  # which ends the waiting for a KYDB that does not answer
                raise
        if stop():
            say("stopped before training began: there is no model")
            return
        folds = folds_of(prices.frame, settings)
        check_memory(settings, len(prices.frame))
        for line in (*prices.lines, described_folds(folds)):
            say(line)
        data = prices.facts | rows_of_parts(folds)
        record = job_record(job=job.name, instance_type=job.instance_type, settings=settings, data=data)
        instance = find_instance(settings.precision, instance_type=job.instance_type, allow_cpu=settings.allow_cpu)
        record["device"] = instance.description
        say(f"device: {instance.description}")
        places = Places(job.name, job.checkpoints, job.tensorboard if settings.tensorboard else None)
        train = functools.partial(train_fold, settings, instance, record["data"]["sha256"], places, stop)
        outcome = train_in_turn(folds, train, stop)
        _deliver(job, settings, target, folds, outcome, record, stop)


def _target(job: Job, settings: Settings) -> ModelTarget | None:
    """Where the model is published; None: nowhere."""
    if not settings.model_db:
        return None
    return ModelTarget(settings.model_db, settings.model_key, job.name, settings.kydb_timeout)


def _deliver(
    job: Job,
    settings: Settings,
    target: ModelTarget | None,
    folds: list[Fold],
    outcome: Outcome,
    record: dict[str, Any],
    stop: StopSignal,
) -> None:
    """Saves the model that is kept; unless the job was stopped, publishes it and says what it is worth."""
    result = outcome.kept.result
    metrics = metrics_of(job=job.name, history=result.history, best_epoch=result.best_epoch, stopped=outcome.stopped)
    h5_file = _saved(outcome.kept.model, job, settings, None if outcome.stopped else target)
    write_json(job.model / "job.json", record)
    write_json(job.model / "metrics.json", metrics)
    if outcome.stopped:
        what = "the best model so far" if result.best_epoch else "a model of less than an epoch, not measured,"
        say(f"stopped: {what} is in {job.model}, nothing was published")
        return
    if target:
        metrics["published"] = target.publish(h5_file.read_bytes(), settings.publish_seconds, given_up=stop)
        write_json(job.model / "metrics.json", metrics)
    if settings.validation_fraction:
        judge_models(folds, outcome, settings, record, metrics, job.model, job.output_data)


def _saved(model, job: Job, settings: Settings, target: ModelTarget | None) -> Path:
    """Saves the model in model/; where that fails, publishes it to KYDB anyway and fails the job."""
    try:
        return save_model(model, job.model, settings.h5_name)
    except UserError as error:
        kept = target is not None and target.publish(h5_content(model), settings.publish_seconds)
        where = (
            f"it was published to {target}"
            if kept
            else f"a job on the checkpoints in {job.checkpoints} gets it without training again"
            if job.checkpoints
            else "it is lost, since the job has no checkpoints"
        )
        raise UserError(f"{error}; {where}") from error
