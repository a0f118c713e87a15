"""A training job, from what SageMaker asked for to a published model.

The sagemaker-training toolkit's `train` command runs `main` (SAGEMAKER_TRAINING_MODULE=train:main) in its
own process, so that the signals SageMaker sends arrive here.
"""

import contextlib
import dataclasses
import functools
import gc
import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from ml.data.columns import Reading
from ml.data.history import fingerprint, gaps
from ml.data.sources import read_channel, read_kydb
from ml.data.understood import History, one_label
from ml.databases import configure_aws
from ml.deliver.model_store import ModelTarget, check_folder, h5_content, library_versions, save_model
from ml.errors import UserError, one_line, printable, redacted
from ml.files import write_json
from ml.learn.folds import Fold, Outcome, Trained, fold_table, folds_of, mean_metrics, train_in_turn
from ml.metrics import performance_line
from ml.optimal_position import labelled
from ml.platform.failure import failures_reported
from ml.platform.job import Job, base_folder, read_job
from ml.platform.memory import available_memory, check_memory
from ml.platform.stop import StopSignal
from ml.settings import Settings, parse_settings


def main() -> None:
    """Runs the job under SAGEMAKER_BASE_DIR (default /opt/ml); raises where it failed."""
    stop = StopSignal()
    base = base_folder()
    with failures_reported(base):
        job = read_job(base)
        settings = parse_settings(job.hyperparameters)
        _refuse_several_hosts(job)
        configure_aws(settings.kydb_timeout)
        check_folder(job.model, settings.weights)
        target = (
            ModelTarget(settings.model_db, settings.model_key, job.name, settings.kydb_timeout)
            if settings.model_db
            else None
        )
        try:
            if target:
                target.check(settings, given_up=lambda: stop.is_set)
            history, understood = _labelled_history(job, settings, stop)
        except UserError:
            if not stop.is_set:  # which ends the waiting for a KYDB that does not answer
                raise
        if stop.is_set:
            print("stopped before training began: there is no model", flush=True)
            return
        folds = folds_of(history, settings)
        check_memory(settings, len(history))
        record = _job_record(job, settings, folds)
        record["data"]["source"] = understood.as_json()
        outcome = train_in_turn(folds, functools.partial(_trained, job, settings, record, stop), stop)
        result = outcome.kept.result
        h5_file = _saved(outcome.kept.model, job, settings, None if outcome.stopped else target)
        write_json(job.model / "job.json", record)
        write_json(
            job.model / "metrics.json",
            metrics := {
                "job": job.name,
                "best_epoch": result.best_epoch,
                "stopped": outcome.stopped,
                "published": None,
                "best": result.history[result.best_epoch - 1] if result.best_epoch else {},
                "epochs": [{"epoch": number} | epoch for number, epoch in enumerate(result.history, 1)],
            },
        )
        if outcome.stopped:
            what = "the best model so far" if result.best_epoch else "a model of less than an epoch, not measured,"
            print(f"stopped: {what} is in {job.model}, nothing was published", flush=True)
            return
        if target:
            metrics["published"] = target.publish(
                h5_file.read_bytes(), settings.publish_seconds, given_up=lambda: stop.is_set
            )
            write_json(job.model / "metrics.json", metrics)
        if settings.validation_fraction:
            _report(job, settings, folds, outcome, record, metrics)


def _saved(model, job: Job, settings: Settings, target: ModelTarget | None) -> Path:
    """Saves the model in model/; where that fails, KYDB gets it all the same, and the job fails."""
    try:
        return save_model(model, job.model, settings.h5_name)
    except UserError as error:
        kept = bool(target) and target.publish(h5_content(model), settings.publish_seconds)
        where = (
            f"it was published to {target}"
            if kept
            else f"a job on the checkpoints in {job.checkpoints} gets it without training again"
            if job.checkpoints
            else "it is lost, since the job has no checkpoints"
        )
        raise UserError(f"{error}; {where}") from error


def _refuse_several_hosts(job: Job) -> None:
    if len(job.hosts) > 1:
        raise UserError(
            f"the job has {len(job.hosts)} hosts and can use one; set ResourceConfig.InstanceCount "
            "to 1, and choose an instance with more GPUs for more speed"
        )


def _labelled_history(job: Job, settings: Settings, stop: StopSignal) -> History:
    """The checked history between start_date and end_date, from KYDB or from a channel, with positions."""
    if settings.prices_db:
        history = read_kydb(
            settings.prices_db,
            settings.prices_key,
            settings.start_date,
            settings.end_date,
            patience=settings.read_seconds,
            timeout=settings.kydb_timeout,
            given_up=lambda: stop.is_set,
            resample=settings.resample,
        )
    elif settings.prices_channel not in job.channels:
        raise UserError(
            f"there are no prices: prices_db is empty and there is no channel "
            f"{settings.prices_channel} (channels: {', '.join(job.channels) or 'none'}); "
            "set prices_db and prices_key, or add the channel"
        )
    else:
        folder = job.channels[settings.prices_channel]
        how, room = Reading.of(settings), available_memory()[0]
        history = read_channel(folder, settings.start_date, settings.end_date, how, room=room)
    print(f"read: {printable(str(history.understood))}", flush=True)
    history = history._replace(frame=labelled(history.frame, settings.horizon, settings.spread))
    if problem := one_label(history.frame):
        raise UserError(problem)
    return history


def _job_record(job: Job, settings: Settings, folds: list[Fold]) -> dict[str, Any]:
    """What the model was made from (job.json), printed in short."""
    history, train_rows, validation_rows = folds[-1].history, folds[-1].train_rows, folds[-1].validation_rows
    found = gaps(history)
    buys = float((history["position"] > 0).mean())
    print(
        f"prices: {len(history):,} rows from {history.index[0]} to {history.index[-1]}, {found}, "
        f"{buys:.1%} labelled buy",
        flush=True,
    )
    print(
        f"training on {len(train_rows):,} rows, "
        + (f"validating on the last {len(validation_rows):,}" if validation_rows is not None else "validation is off")
        + (f", after {len(folds) - 1} such folds before them" if len(folds) > 1 else ""),
        flush=True,
    )
    values = {
        name: str(value) if name in ("start_date", "end_date") and value else value
        for name, value in dataclasses.asdict(settings).items()
    }
    values |= {name: redacted(values[name]) for name in ("prices_db", "model_db")}
    return {
        "job": job.name,
        "instance_type": job.instance_type,
        "settings": values,
        "data": {
            "rows": len(history),
            "first": str(history.index[0]),
            "last": str(history.index[-1]),
            "gaps": found._asdict(),
            "buy_share": buys,
            "train_rows": len(train_rows),
            "validation_rows": 0 if validation_rows is None else len(validation_rows),
            "sha256": fingerprint(history),
        },
        "libraries": library_versions(),
    }


def _trained(job: Job, settings: Settings, record: dict[str, Any], stop: StopSignal, fold: Fold) -> Trained:
    """A fold's model."""
    # TensorFlow takes seconds to import, so what is wrong with a request is told before.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("absl", "tensorflow", "matplotlib"):  # which warn of .h5 files, asked for here, and tell of fonts
        logging.getLogger(name).setLevel(logging.ERROR)
    with _banners_left_out(), _without_matplotlib():
        importlib.import_module("tensorflow")
        importlib.import_module("keras")
    gc.enable()  # which bin/train disabled
    from ml.learn.checkpoints import CheckpointFolder
    from ml.learn.network import build_network
    from ml.learn.trainer import Trainer
    from ml.platform.hardware import find_instance
    from ml.train_sequence import TrainSequence

    instance = find_instance(settings.precision, instance_type=job.instance_type, allow_cpu=settings.allow_cpu)
    if fold.number == 1:
        print(f"device: {instance.description}", flush=True)
    record["device"] = instance.description
    train = TrainSequence(fold.train_rows, settings.lookback, settings.batch_size, seed=settings.seed)
    validation = (
        None
        if fold.validation_rows is None
        else TrainSequence(fold.validation_rows, settings.lookback, settings.batch_size, enable_shuffle=False)
    )
    with instance.strategy.scope():
        model = build_network(
            settings.lookback,
            settings.nodes,
            settings.layers,
            settings.dropout,
            settings.seed,
            centred=settings.centred,
        )
    trainer = Trainer(model, settings, instance, train, validation)
    checkpoints = CheckpointFolder(job.checkpoints, str(Path(job.name, fold.subfolder))) if job.checkpoints else None
    result = trainer.fit(
        stop=stop,
        checkpoints=checkpoints,
        tensorboard=job.tensorboard / fold.subfolder if settings.tensorboard else None,
        identity=_identity(settings, record, instance.precision, fold),
        report=fold.report,
    )
    return Trained(model, result, trainer.probabilities)


@contextlib.contextmanager
def _banners_left_out():
    """For TensorFlow's import: its libraries tell of oneDNN then, whatever their log level. Errors are Python's."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def _without_matplotlib():
    """For Keras' import, which imports it where it is found, for plots that nobody asks for here: half a second."""
    absent = sys.modules.setdefault("matplotlib", None) is None  # None: what Python takes for not installed
    try:
        yield
    finally:
        if absent:
            del sys.modules["matplotlib"]


def _identity(settings: Settings, record: dict[str, Any], precision: str, fold: Fold) -> dict[str, Any]:
    """What a checkpoint must share with the job that resumes from it: all that changes the weights.

    More epochs are allowed: they continue the same training, unless the learning rate's way depends on them.
    The last fold's is that of a job of one fold.
    """
    names = (
        "lookback",
        "horizon",
        "nodes",
        "layers",
        "dropout",
        "centred",
        "batch_size",
        "learning_rate",
        "warmup_steps",
        "schedule",
        "weight_decay",
        "label_smoothing",
        "optimizer",
        "seed",
        "validation_fraction",
        "monitor",
        *(["epochs"] if settings.schedule == "cosine" else []),
    )
    return (
        {name: getattr(settings, name) for name in names}
        | {"precision": precision, "data": record["data"]["sha256"]}
        | ({"fold": f"{fold.number} of {fold.count}"} if fold.subfolder else {})
    )


def _report(
    job: Job, settings: Settings, folds: list[Fold], outcome: Outcome, record: dict[str, Any], metrics: dict[str, Any]
) -> None:
    """Measures what the model is worth, prints it and keeps it; the model is safe by then, whatever fails here."""
    try:
        # Imported here, since SciPy takes a moment that the first epoch need not wait for.
        from ml.judge.performance import measured
        from ml.judge.report import write_report

        performances = [
            measured(fold.history, len(fold.train_rows), probability, settings)
            for fold, probability in zip(folds, [*outcome.probabilities, outcome.kept.predict()], strict=True)
        ]
        table = fold_table(folds, outcome.results, performances)
        numbers = performances[-1].metrics | mean_metrics(table)
        print(performance_line(numbers), flush=True)
        print(performances[-1].verdict, performances[-1].profit_verdict, sep="\n", flush=True)
        metrics |= {"performance": {"metrics": numbers} | performances[-1].as_json(), "folds": table}
        write_json(job.model / "metrics.json", metrics)
        page = write_report(job.output_data, record, metrics, folds[-1].history, performances[-1])
        print(f"report: {page}", flush=True)
    except Exception as error:
        traceback.print_exc()
        print(f"NO REPORT: {one_line(error)}; the model in {job.model} is whole", flush=True)
