"""A training job, from what SageMaker asked for to a published model.

The sagemaker-training toolkit's `train` command runs `main` (SAGEMAKER_TRAINING_MODULE=train:main) in its
own process, so that the signals SageMaker sends arrive here.
"""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from ml.databases import configure_aws, redacted
from ml.errors import UserError
from ml.job import Job, StopSignal, base_folder, failures_reported, read_job
from ml.memory import check_memory
from ml.model_store import ModelTarget, check_folder, h5_content, library_versions, save_model, write_json
from ml.optimal_position import labelled
from ml.settings import Settings, parse_settings
from ml.timeseries import fingerprint, gaps, read_channel, read_kydb, split_by_time


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
        target = ModelTarget(settings.model_db, settings.model_key, job.name, settings.kydb_timeout) \
            if settings.model_db else None
        if target:
            target.check(settings.weights, settings.read_seconds)
        history = labelled(_price_history(job, settings), settings.horizon, settings.spread)
        train_rows, validation_rows = split_by_time(
            history, settings.validation_fraction, settings.lookback, settings.horizon)
        check_memory(settings, len(history))
        record = _job_record(job, settings, history, train_rows, validation_rows)
        if stop.is_set:
            print("stopped before training began: there is no model", flush=True)
            return
        model, result = _trained(job, settings, train_rows, validation_rows, record, stop)
        h5_file = _saved(model, job, settings, target if not result.stopped else None)
        write_json(job.model / "job.json", record)
        write_json(job.model / "metrics.json", metrics := {
            "job": job.name, "best_epoch": result.best_epoch, "stopped": result.stopped, "published": None,
            "best": result.history[result.best_epoch - 1] if result.best_epoch else {},
            "epochs": [{"epoch": number} | epoch for number, epoch in enumerate(result.history, 1)],
        })
        if result.stopped:
            print(f"stopped: the best model so far is in {job.model}, nothing was published", flush=True)
        elif target:
            metrics["published"] = target.publish(h5_file.read_bytes(), settings.publish_seconds,
                                                  given_up=lambda: stop.is_set)
            write_json(job.model / "metrics.json", metrics)


def _saved(model, job: Job, settings: Settings, target: ModelTarget | None) -> Path:
    """Saves the model in model/; where that fails, KYDB gets it all the same, and the job fails."""
    try:
        return save_model(model, job.model, settings.h5_name)
    except UserError as error:
        kept = bool(target) and target.publish(h5_content(model), settings.publish_seconds)
        where = f"it was published to {target}" if kept else \
            f"a job on the checkpoints in {job.checkpoints} gets it without training again" if job.checkpoints else \
            "it is lost, since the job has no checkpoints"
        raise UserError(f"{error}; {where}") from error


def _refuse_several_hosts(job: Job) -> None:
    if len(job.hosts) > 1:
        raise UserError(f"the job has {len(job.hosts)} hosts and can use one; set ResourceConfig.InstanceCount "
                        "to 1, and choose an instance with more GPUs for more speed")


def _price_history(job: Job, settings: Settings) -> pd.DataFrame:
    """The checked history between start_date and end_date, from KYDB or from a channel."""
    if settings.prices_db:
        return read_kydb(settings.prices_db, settings.prices_key, settings.start_date, settings.end_date,
                         patience=settings.read_seconds, timeout=settings.kydb_timeout)
    if settings.prices_channel not in job.channels:
        raise UserError(f"there are no prices: prices_db is empty and there is no channel "
                        f"{settings.prices_channel} (channels: {', '.join(job.channels) or 'none'}); "
                        "set prices_db and prices_key, or add the channel")
    return read_channel(job.channels[settings.prices_channel], settings.start_date, settings.end_date)


def _job_record(job: Job, settings: Settings, history: pd.DataFrame, train_rows: pd.DataFrame,
                validation_rows: pd.DataFrame | None) -> dict[str, Any]:
    """What the model was made from (job.json), printed in short."""
    found = gaps(history)
    buys = float((history["position"] > 0).mean())
    print(f"prices: {len(history):,} rows from {history.index[0]} to {history.index[-1]}, {found}, "
          f"{buys:.1%} labelled buy", flush=True)
    print(f"training on {len(train_rows):,} rows, "
          + (f"validating on the last {len(validation_rows):,}" if validation_rows is not None
             else "validation is off"), flush=True)
    values = {name: str(value) if name in ("start_date", "end_date") and value else value
              for name, value in dataclasses.asdict(settings).items()}
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


def _trained(job: Job, settings: Settings, train_rows: pd.DataFrame, validation_rows: pd.DataFrame | None,
             record: dict[str, Any], stop: StopSignal):
    """The trained model and its `TrainingResult`."""
    # TensorFlow takes seconds to import, so what is wrong with a request is told before.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("absl", "tensorflow"):  # they warn of .h5 files, which are what is asked for here
        logging.getLogger(name).setLevel(logging.ERROR)
    from ml.checkpoints import CheckpointFolder
    from ml.instance import find_instance
    from ml.network import build_network
    from ml.train_sequence import TrainSequence
    from ml.training import Trainer

    instance = find_instance(settings.precision, instance_type=job.instance_type, allow_cpu=settings.allow_cpu)
    print(f"device: {instance.description}", flush=True)
    record["device"] = instance.description
    train = TrainSequence(train_rows, settings.lookback, settings.batch_size, seed=settings.seed)
    validation = None if validation_rows is None else TrainSequence(
        validation_rows, settings.lookback, settings.batch_size, enable_shuffle=False)
    with instance.strategy.scope():
        model = build_network(
            settings.lookback, settings.nodes, settings.layers, settings.dropout, settings.seed)
    trainer = Trainer(model, settings, instance, train, validation)
    checkpoints = CheckpointFolder(job.checkpoints, job.name) if job.checkpoints else None
    result = trainer.fit(
        stop=stop, checkpoints=checkpoints, tensorboard=job.tensorboard if settings.tensorboard else None,
        identity=_identity(settings, record, instance.precision))
    return model, result


def _identity(settings: Settings, record: dict[str, Any], precision: str) -> dict[str, Any]:
    """What a checkpoint must share with the job that resumes from it: all that changes the weights.

    More epochs are allowed: they continue the same training.
    """
    names = ("lookback", "horizon", "nodes", "layers", "dropout", "batch_size", "learning_rate",
             "warmup_steps", "optimizer", "seed", "validation_fraction", "monitor")
    return {name: getattr(settings, name) for name in names} | {
        "precision": precision, "data": record["data"]["sha256"]}
