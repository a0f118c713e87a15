"""A training job, from what SageMaker asked for to a published model.

The sagemaker-training toolkit's `train` command runs `main` (SAGEMAKER_TRAINING_MODULE=train:main) in its
own process, so that the signals SageMaker sends arrive here.
"""

import dataclasses
import functools
import hashlib
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ml.bars import bar_length
from ml.data.prices import labelled_prices
from ml.databases import configure_aws
from ml.dates import day_of_job
from ml.deliver.guard import Decision, decide
from ml.deliver.looks import count_look, looker_of
from ml.deliver.model_files import check_folder, h5_content, save_model
from ml.deliver.publishing import ModelTarget, description
from ml.deliver.results import (
    JOB_FILE,
    MEASURED_FOLDER,
    METRICS_FILE,
    JobRecord,
    MemberEntry,
    Metrics,
    Refit,
    job_record,
    metrics_of,
    write_metrics,
    written_settings,
)
from ml.errors import UserError, one_line
from ml.hyperparameters import parse_settings
from ml.judge.judging import Judged, judge_models, keep_daily_results
from ml.learn.devices import Instance
from ml.learn.fold_training import Places, predicted, train_fold
from ml.learn.folds import Fold, Outcome, Trained, folds_of, refit_fold, rows_of_parts, train_in_turn, train_shared_out
from ml.learn.folds import described as described_folds
from ml.learn.hosts import ONE_HOST, Hosts
from ml.learn.links import Message
from ml.learn.meeting import StoppedWaiting, joined
from ml.learn.members import MemberResult, best_first, members_of, widest_of, with_lookbacks
from ml.learn.population_training import Population, kept_of, tell_best, train_at_once, train_members
from ml.learn.population_training import described as described_population
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

if TYPE_CHECKING:
    from ml.judge.daily import Members

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
    members = members_of(settings)
    widest = widest_of(members) if members else settings
    _refuse_on_several_hosts(settings, hosts)
    configure_aws(settings.kydb_timeout)
    target = _target(job, settings) if hosts.first else None
    if hosts.first:
        check_folder(job.model, widest.weights)
    try:
        if target:
            for each in with_lookbacks(members) if members else [settings]:
                target.check(each, given_up=stop)
        prices = labelled_prices(widest, job.channels, available_memory()[0], given_up=stop)
    except UserError:
        if not stop():  # which ends the waiting for a KYDB that does not answer
            raise
        prices = None
    if hosts.any("stop", stop()) or prices is None:
        say(_NOT_BEGUN)
        return
    folds = folds_of(prices.frame, widest)
    lookbacks = len({member.settings.lookback for member in members})
    check_memory(widest, len(prices.frame), networks=max(1, len(members)), lookbacks=max(1, lookbacks))
    for line in (*prices.lines, described_folds(folds)):
        say(line)
    if members:
        say(described_population(members, settings.halving))
    data = prices.facts | rows_of_parts(folds)
    record = job_record(job=job.name, instance_type=job.instance_type, settings=settings, data=data)
    digest = record["data"]["sha256"]
    hosts.compare(record["settings"] | {"prices": digest})
    apart = len(folds) > 1 or bool(members)  # each is one host's; else all hosts train the one network
    instance = find_instance(
        settings.precision,
        instance_type=job.instance_type,
        allow_cpu=settings.allow_cpu,
        weights=widest.weights * max(1, len(members)),
        programs=program_folders(job.checkpoints if hosts.first else None, job.name),
        hosts=ONE_HOST if apart else hosts,
    )
    stop.listen()  # TensorFlow takes SIGTERM for itself where it connects several hosts
    record["device"] = instance.description
    record["hardware"] = dict(instance.facts)
    record["programs"] = list(map(str, instance.programs))
    say(f"device: {instance.description}")
    if hosts.count > 1:
        say(described_work(hosts, settings, len(members), 0 if instance.compile_step else usable_cores()))
    places = Places(job.name, job.checkpoints, job.tensorboard if settings.tensorboard else None)
    asked = hosts.hearing_of_stops(stop) if apart else stop
    population, outcome = None, None
    if members:
        at_once = functools.partial(train_at_once, settings.halving, instance, digest, places, asked, folds[-1], hosts)
        population = train_members(hosts, members, at_once, asked)
        if population:
            kept, outcome = kept_of(population, settings.monitor)
            settings = kept.member.settings
            record["settings"] = written_settings(settings)
    train = functools.partial(train_fold, settings, instance, digest, places, asked)
    if not members:
        outcome = train_shared_out(hosts, folds, train, asked) if apart else train_in_turn(folds, train, stop)
    if outcome and hosts.first:
        _deliver(job, settings, instance, target, folds, outcome, record, train, stop, population)


def _refuse_on_several_hosts(settings: Settings, hosts: Hosts) -> None:
    """Refuses what several hosts cannot do."""
    if hosts.count == 1:
        return
    for name, given, why in (
        ("halving", settings.halving > 1, "compares all members after an epoch, and each host trains its own"),
        ("refit", settings.refit, "is one training more, on one host"),
    ):
        if given:
            raise UserError(f"{name} {why}, received {hosts.count} hosts; set InstanceCount to 1, or leave it out")


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
    instance: Instance,
    target: ModelTarget | None,
    folds: list[Fold],
    outcome: Outcome,
    record: JobRecord,
    train: Callable[[Fold], Trained],
    stop: StopSignal,
    population: Population | None,
) -> None:
    """Saves the model that is kept; unless the job was stopped, says what it is worth, refits and publishes it."""
    result = outcome.kept.result
    metrics = metrics_of(job=job.name, history=result.history, best_epoch=result.best_epoch, stopped=outcome.stopped)
    ranked = best_first(population.results, settings.monitor) if population else []
    if population:
        metrics["population"] = [cast(MemberEntry, each.as_json()) for each in population.results]
        metrics["member"] = ranked[0].member.number
        tell_best(ranked, settings.monitor)
    h5 = _saved(outcome.kept.model, job, settings, record, metrics, None if outcome.stopped else target)
    if population:
        _leave_population(job.output_data, population, ranked, folds[-1])
    keep = functools.partial(write_metrics, job.model, metrics)
    if outcome.stopped:
        what = "the best model so far" if result.best_epoch else "a model of less than an epoch, not measured,"
        say(f"stopped: {what} is in {job.model}, nothing was published")
        if settings.validation_fraction and result.best_epoch and len(folds) == 1 and not population:
            keep_daily_results(folds[-1], outcome.kept.predict, settings, metrics, keep)
        return
    tried = _tried(population, ranked[0]) if population else None
    judged = _judged(settings, instance, folds[-1], outcome.kept)
    if judged:
        count = functools.partial(
            count_look,
            judged.fold.held_out,
            looker_of(job.name, job.hyperparameters),
            job.looks,
            settings.model_db,
            settings.model_key,
            settings.kydb_timeout,
        )
        judge_models(folds, outcome, judged, settings, record, metrics, keep, count, job.output_data, tried)
    # After the measuring, so that the version's record has the verdict, and of the model that was measured.
    decision = _decision(settings, record, judged, h5, target, stop) if target else None
    measured = None
    if settings.refit:
        measured = h5
        try:
            h5 = _refitted(job, settings, train(refit_fold(folds[-1], result.best_epoch)), h5, record, metrics)
        except Exception as error:
            traceback.print_exc()
            why = f"the refit failed: {one_line(error)}"
            say(f"NO REFIT: {why}; the model that was measured is in {job.model}")
            decision = decision and Decision(False, why)
        if metrics.get("stopped"):
            keep()
            say(f"stopped in the refit: the model that was measured is in {job.model}, nothing was published")
            return
    if target and decision:
        metrics["publication"] = decision.reason
        if decision.publish:
            about = description(record, metrics)
            metrics["published"] = target.publish(h5, settings, about, measured=measured, given_up=stop)
        else:
            metrics["published"] = False
            say(
                f"NOT PUBLISHED: {decision.reason}; the model is kept in model/, publish it all the same with: "
                f"launch.py publish {job.name}"
            )
        keep()


def _leave_population(folder: Path, population: Population, ranked: list[MemberResult], fold: Fold) -> None:
    """Writes the leaderboard, and all networks' predictions unless the job was stopped; the model is safe by then."""
    # Imported here, since pyarrow takes a moment that other jobs need not wait for.
    from ml.deliver.population_files import write_leaderboard, write_predictions

    try:
        write_leaderboard(folder, [cast(MemberEntry, each.as_json()) for each in ranked])
        if population.predicted:
            rows, probabilities = population.predicted
            numbers = [result.member.number for result in population.results]
            write_predictions(folder, fold.held_out, rows, numbers, probabilities)
    except UserError as error:
        say(f"NO LEADERBOARD: {error}; the model is whole")


def _tried(population: Population, kept: MemberResult) -> "Members | None":
    """What all networks of a population predict, for how much luck is in the choice of one; None: nothing."""
    if not population.predicted:
        return None
    from ml.judge.daily import Members

    rows, probabilities = population.predicted
    known = np.asarray(np.isfinite(probabilities).all(axis=0))
    numbers = [result.member.number for result, whole in zip(population.results, known, strict=True) if whole]
    return Members(rows, probabilities[:, known].T, numbers, kept.member.number, len(population.results))


def _judged(settings: Settings, instance: Instance, fold: Fold, kept: Trained) -> Judged | None:
    """What the model that is kept is judged on; None: nothing is held out."""
    if tested := fold.test_part:
        return Judged("test", tested, functools.cache(lambda: predicted(kept.model, settings, instance, tested)))
    return Judged("validation", fold, kept.predict) if settings.validation_fraction else None


def _refitted(
    job: Job, settings: Settings, trained: Trained, measured: bytes, record: JobRecord, metrics: Metrics
) -> bytes:
    """Puts a model that was trained on every row in the place of the one that was measured, which is kept beside it.

    Args:
        job: whose model/ it is.
        settings: of the job.
        trained: the refit; where it was stopped, metrics.json says so and nothing else is changed.
        measured: the .h5 file of the model that was measured.
        record: job.json.
        metrics: metrics.json, which gets `refit`.

    Returns:
        The bytes of the .h5 file in model/.

    Raises:
        UserError: the refit diverged, or model/ cannot be written; the model that was measured is still there.
    """
    result = trained.result
    if result.stopped:
        metrics["stopped"] = True
        return measured
    if result.best_epoch != metrics["best_epoch"]:
        raise UserError(f"training diverged after {result.best_epoch} of {metrics['best_epoch']} epochs")
    h5 = h5_content(trained.model)
    sha256, measured_sha256 = (hashlib.sha256(each).hexdigest() for each in (h5, measured))
    rows, epochs = record["data"]["rows"], result.best_epoch
    refit: Refit = {"epochs": epochs, "rows": rows, "model_sha256": sha256, "measured_sha256": measured_sha256}
    others = {f"{MEASURED_FOLDER}/{settings.h5_name}": measured}
    save_model(
        trained.model,
        h5,
        job.model,
        settings.h5_name,
        {JOB_FILE: record, METRICS_FILE: metrics | {"refit": refit}},
        others,
    )
    metrics["refit"] = refit
    say(
        f"refit: the model in {job.model} was trained for {epochs} epochs on all {rows:,} rows; what is said above is "
        f"of the model in {MEASURED_FOLDER}/{settings.h5_name}, and nothing can measure the other"
    )
    return h5


def _decision(
    settings: Settings, record: JobRecord, judged: Judged | None, h5: bytes, target: ModelTarget, stop: StopSignal
) -> Decision:
    """Whether publish_if lets the model be published, by the rows that it is judged on."""
    if settings.publish_if == "always" or judged is None:  # settings that hold nothing out publish always
        return Decision(True, "publish_if=always")
    fold = judged.fold
    try:
        content, before = target.current(settings.publish_seconds, given_up=stop)
    except Exception as error:
        return Decision(False, f"the model under the key cannot be read: {one_line(error)}")
    rows, probability = judged.predict()

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
        return compared(new[both], old[both], labels, block, share, times_of(held_out), part=judged.part)

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
