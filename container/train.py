"""A training job, from what SageMaker asked for to a published model.

The sagemaker-training toolkit's `train` command runs `main` (SAGEMAKER_TRAINING_MODULE=train:main) in its
own process, so that the signals SageMaker sends arrive here.
"""

import dataclasses
import functools
from datetime import datetime

import numpy as np

from ml.bars import bar_length
from ml.data.prices import labelled_prices
from ml.databases import configure_aws
from ml.dates import day_of_job
from ml.deliver.guard import Decision, decide
from ml.deliver.model_files import check_folder, h5_content, save_model
from ml.deliver.publishing import ModelTarget, description
from ml.deliver.results import JOB_FILE, METRICS_FILE, JobRecord, Metrics, job_record, metrics_of, write_metrics
from ml.errors import UserError, one_line
from ml.hyperparameters import parse_settings
from ml.judge.judging import judge_models
from ml.learn.fold_training import Places, train_fold
from ml.learn.folds import Fold, Outcome, Trained, folds_of, rows_of_parts, train_in_turn, train_shared_out
from ml.learn.folds import described as described_folds
from ml.learn.hosts import ONE_HOST, Hosts, Message, StoppedWaiting, joined
from ml.learn.sharing import described_work
from ml.learn.split import times_of
from ml.log import say
from ml.platform.failure import end_failed, failures_reported
from ml.platform.hardware import find_instance, usable_cores
from ml.platform.job import Job, base_folder, read_job
from ml.platform.memory import available_memory, check_memory
from ml.platform.programs import program_folders
from ml.platform.stop import StopSignal
from ml.settings import Settings

_NOT_BEGUN = "stopped before training began: there is no model"


def main() -> None:
    """Runs the job under SAGEMAKER_BASE_DIR (default /opt/ml); raises where it failed."""
    stop = StopSignal()
    base = base_folder()
    with failures_reported(base):
        job = read_job(base)
        settings = parse_settings(job.hyperparameters, day_of_job(job.hyperparameters, job.checkpoints, job.name))
        job.refuse_unlike_hosts()
        end = functools.partial(end_failed, base)
        try:
            with joined(job.hosts, job.host, job.name, settings.hosts_seconds, stop, end) as hosts:
                _train(job, _with_dates_of_first(settings, hosts), hosts, stop)
        except StoppedWaiting:
            say(_NOT_BEGUN)


def _train(job: Job, settings: Settings, hosts: Hosts, stop: StopSignal) -> None:
    """What each host of a job does; the first one delivers."""
    configure_aws(settings.kydb_timeout)
    target = _target(job, settings) if hosts.first else None
    if hosts.first:
        check_folder(job.model, settings.weights)
    try:
        if target:
            target.check(settings, given_up=stop)
        prices = labelled_prices(settings, job.channels, available_memory()[0], given_up=stop)
    except UserError:
        if not stop():  # which ends the waiting for a KYDB that does not answer
            raise
        prices = None
    if hosts.any("stop", stop()) or prices is None:
        say(_NOT_BEGUN)
        return
    folds = folds_of(prices.frame, settings)
    check_memory(settings, len(prices.frame))
    for line in (*prices.lines, described_folds(folds)):
        say(line)
    data = prices.facts | rows_of_parts(folds)
    record = job_record(job=job.name, instance_type=job.instance_type, settings=settings, data=data)
    digest = record["data"]["sha256"]
    hosts.compare(record["settings"] | {"prices": digest})
    apart = len(folds) > 1  # each fold is one host's; else all hosts train the one network
    instance = find_instance(
        settings.precision,
        instance_type=job.instance_type,
        allow_cpu=settings.allow_cpu,
        weights=settings.weights,
        programs=program_folders(job.checkpoints if hosts.first else None, job.name),
        hosts=ONE_HOST if apart else hosts,
    )
    stop.listen()  # TensorFlow takes SIGTERM for itself where it connects several hosts
    record["device"] = instance.description
    record["hardware"] = dict(instance.facts)
    record["programs"] = list(map(str, instance.programs))
    say(f"device: {instance.description}")
    if hosts.count > 1:
        say(described_work(hosts, settings, 0 if instance.compile_step else usable_cores()))
    places = Places(job.name, job.checkpoints, job.tensorboard if settings.tensorboard else None)
    asked = hosts.hearing_of_stops(stop) if apart else stop
    train = functools.partial(train_fold, settings, instance, digest, places, asked)
    outcome = train_shared_out(hosts, folds, train, asked) if apart else train_in_turn(folds, train, stop)
    if outcome and hosts.first:
        _deliver(job, settings, target, folds, outcome, record, stop)


def _with_dates_of_first(settings: Settings, hosts: Hosts) -> Settings:
    """The settings with the first host's dates: `-3y` may mean another day on a host that starts after midnight."""
    dates = (settings.start_date, settings.end_date)
    told = hosts.from_first("dates", Message([date and date.isoformat() for date in dates])).values
    start, end = (date and datetime.fromisoformat(date) for date in told)
    return dataclasses.replace(settings, start_date=start, end_date=end)


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
        decision = _decision(settings, record, folds[-1], outcome.kept, h5, target, stop)
        metrics["publication"] = decision.reason
        if decision.publish:
            metrics["published"] = target.publish(h5, settings, description(record, metrics), given_up=stop)
        else:
            metrics["published"] = False
            say(
                f"NOT PUBLISHED: {decision.reason}; the model is kept in model/, publish it all the same with: "
                f"launch.py publish {job.name}"
            )
        keep()


def _decision(
    settings: Settings,
    record: JobRecord,
    fold: Fold,
    kept: Trained,
    h5: bytes,
    target: ModelTarget,
    stop: StopSignal,
) -> Decision:
    """Whether publish_if lets the model be published, by the held-out rows of the last fold."""
    if settings.publish_if == "always":
        return Decision(True, "publish_if=always")
    try:
        content, before = target.current(settings.publish_seconds, given_up=stop)
    except Exception as error:
        return Decision(False, f"the model under the key cannot be read: {one_line(error)}")
    rows, probability = kept.predict()

    def compare():
        # Imported here, since SciPy takes a moment that a job which compares nothing need not wait for.
        from ml.judge.comparison import compared
        from ml.judge.performance import block_of
        from ml.learn.other_model import probabilities_of

        # Both from their files: in the training's precision the same model has another loss than in float32.
        new, old = (probabilities_of(each, fold, rows, settings.max_gap) for each in (h5, content or b""))
        both = np.isfinite(old)
        held_out = fold.held_out.iloc[rows[both]]
        block = block_of(settings.horizon, bar_length(fold.prices.index))
        share = float((fold.train_rows["position"] > 0).mean())
        labels = held_out["position"].to_numpy() > 0
        return compared(new[both], old[both], labels, block, share, times_of(held_out))

    usable = bool(np.isfinite(probability).all())
    return decide(settings.publish_if, record["data"], None if content is None else before, compare, usable=usable)


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
        kept = (
            target is not None
            and settings.publish_if == "always"  # nothing was compared yet
            and target.publish(h5, settings, description(record))
        )
        where = (
            f"it was published to {target}"
            if kept
            else f"a job on the checkpoints in {job.checkpoints} gets it without training again"
            if job.checkpoints
            else "it is lost, since the job has no checkpoints"
        )
        raise UserError(f"{error}; {where}") from error
    return h5
