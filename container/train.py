"""A training job, from what SageMaker asked for to a published model.

The sagemaker-training toolkit's `train` command runs `main` (SAGEMAKER_TRAINING_MODULE=train:main) in its
own process, so that the signals SageMaker sends arrive here.
"""

import functools

from ml.data.prices import described as described_prices
from ml.data.prices import labelled_prices, price_facts
from ml.databases import configure_aws
from ml.deliver.model_files import check_folder, h5_content, save_model
from ml.deliver.publishing import ModelTarget, description
from ml.deliver.results import JOB_FILE, METRICS_FILE, JobRecord, Metrics, job_record, metrics_of, write_metrics
from ml.errors import UserError
from ml.judge.judging import judge_models
from ml.learn.fold_training import Places, train_fold
from ml.learn.folds import Fold, Outcome, folds_of, rows_of_parts, train_in_turn
from ml.learn.folds import described as described_folds
from ml.log import say
from ml.platform.failure import failures_reported
from ml.platform.hardware import find_instance
from ml.platform.job import Job, base_folder, read_job
from ml.platform.memory import check_memory
from ml.platform.programs import program_folders
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
            history = labelled_prices(settings, job.channels, given_up=stop)
        except UserError:
            if not stop():  # which ends the waiting for a KYDB that does not answer
                raise
        if stop():
            say("stopped before training began: there is no model")
            return
        folds = folds_of(history, settings)
        check_memory(settings, len(history))
        say(described_prices(history))
        say(described_folds(folds))
        data = price_facts(history) | rows_of_parts(folds)
        record = job_record(job=job.name, instance_type=job.instance_type, settings=settings, data=data)
        instance = find_instance(
            settings.precision,
            instance_type=job.instance_type,
            allow_cpu=settings.allow_cpu,
            weights=settings.weights,
            programs=program_folders(job.checkpoints, job.name),
        )
        record["device"] = instance.description
        record["hardware"] = dict(instance.facts)
        record["programs"] = list(map(str, instance.programs))
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
    record: JobRecord,
    stop: StopSignal,
) -> None:
    """Saves the model that is kept; unless the job was stopped, says what it is worth and publishes it."""
    result = outcome.kept.result
    metrics = metrics_of(job=job.name, history=result.history, best_epoch=result.best_epoch, stopped=outcome.stopped)
    h5 = _saved(outcome.kept.model, job, settings, record, metrics, None if outcome.stopped else target)
    if outcome.stopped:
        what = "the best model so far" if result.best_epoch else "a model of less than an epoch, not measured,"
        say(f"stopped: {what} is in {job.model}, nothing was published")
        return
    keep = functools.partial(write_metrics, job.model, metrics)
    if settings.validation_fraction:
        judge_models(folds, outcome, settings, record, metrics, keep, job.output_data)
    if target:  # after the measuring, so that the version's record has the verdict
        metrics["published"] = target.publish(h5, settings, description(record, metrics), given_up=stop)
        keep()


def _saved(
    model, job: Job, settings: Settings, record: JobRecord, metrics: Metrics, target: ModelTarget | None
) -> bytes:
    """Saves the model in model/; where that fails, publishes it to KYDB anyway and fails the job.

    Returns:
        The bytes of its .h5 file.
    """
    h5 = h5_content(model)
    try:
        save_model(model, h5, job.model, settings.h5_name, {JOB_FILE: record, METRICS_FILE: metrics})
    except UserError as error:
        kept = target is not None and target.publish(h5, settings, description(record))
        where = (
            f"it was published to {target}"
            if kept
            else f"a job on the checkpoints in {job.checkpoints} gets it without training again"
            if job.checkpoints
            else "it is lost, since the job has no checkpoints"
        )
        raise UserError(f"{error}; {where}") from error
    return h5
