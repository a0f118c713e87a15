"""What a job left in its folder, read and shown: its metrics in groups, its verdicts, where its model is."""

from pathlib import Path
from typing import Any

from console import print_failure, print_json, print_table, say
from leaderboard import PAGE, best_of, write_files
from leaderboard import table as leaderboard_table
from members import count_members, population_of, settings_of_member
from ml.files import write_json
from ml.metrics import FOLDS, METRICS, PERFORMANCE, TEST
from ml.settings import SETTINGS
from place.base import Job
from place.find import job_of_trial
from place.outcome import read_metrics
from request import host_names, objective_of


def mark_published(folder: Path, metrics: dict[str, Any]) -> None:
    """Notes in a job's metrics.json that its model is in the KYDB that it names."""
    write_json(folder / "model" / "metrics.json", metrics | {"published": True})


def print_verdicts(metrics: dict[str, Any]) -> None:
    """What a job's report says of the model, a sentence each, and how often its test part was looked at."""
    for verdict in ("decided_verdict", "verdict", "profit_verdict", "look"):
        if text := metrics.get("performance", {}).get(verdict):
            say(str(text))


def print_luck(record: dict[str, Any]) -> None:
    """How much of a tuning job's best trial is luck, where its search has found out."""
    if luck := record.get("Luck"):
        say(luck["verdict"])
        for _, _, sentence in luck["rows"]:
            say(f"- {sentence}")


def print_training_job(job: Job, record: dict[str, Any], *, as_json: bool, verdicts: bool) -> None:
    """The summary of a training job; the reason of a failure is its last word.

    Args:
        job: the job.
        record: its record.
        as_json: whether to print the record instead.
        verdicts: whether to repeat the report's sentences, which the job's log has.
    """
    status, secondary = record["TrainingJobStatus"], record.get("SecondaryStatus")
    if as_json:
        members = {"Members": _members(job, record)[1]} if _is_population(record) else {}
        print_json({**record, **members})
    else:
        seconds, hosts = record.get("TrainingTimeInSeconds"), len(host_names(record))
        say(
            f"\n{job.name}: {status}"
            + (f" ({secondary})" if secondary not in (status, None) else "")
            + (f" after {seconds} s of training" if seconds is not None else "")
            + (f" on {hosts} hosts" if hosts > 1 else "")
        )
        if bill := job.place.bill(record):
            say(bill)
        if status != "Failed":
            _print_results(job, record, verdicts=verdicts)
    if status == "Failed":
        print_failure(record)


def _print_results(job: Job, record: dict[str, Any], *, verdicts: bool) -> None:
    metrics = read_metrics(job.folder / "model")
    if _is_population(record):
        _print_members(job, record)
    if metrics:
        say(f"epoch {metrics['best_epoch']} of {len(metrics['epochs'])} was kept")
    if metrics.get("refit"):
        say("the model is a refit on every row; the one that was measured is in model/measured")
    for title, rows in _grouped_metrics(metrics, record):
        say("")
        print_table([title, "value"], rows)
    say("")
    if verdicts:
        print_verdicts(metrics)
    if (report := job.folder / "output" / "data" / "report.html").exists():
        say(f"report: {report}")
    model = job.folder / "model" / "model.keras"
    if not model.exists():
        return
    say(f"model: {model}")
    say(f"load:  keras.models.load_model({str(model)!r})")
    parameters = record.get("HyperParameters", {})
    if metrics.get("published") is False:
        guarded = parameters.get("publish_if", "always") != "always"
        why = f" ({metrics['publication']})" if guarded and metrics.get("publication") else ""
        say(f"NOT published to KYDB{why}: python sagemaker/launch.py publish {job.name}")
    elif metrics.get("published"):
        key = parameters.get("model_key", SETTINGS["model_key"].default)
        say(f"kydb:  kydb.connect({parameters.get('model_db')!r})[{key!r}]  # bytes of the .h5")


def _grouped_metrics(metrics: dict[str, Any], record: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titles and rows of name and value: of the epoch that was kept, of the validation and test rows, of the folds."""
    values = dict(metrics.get("best") or {})
    values |= metrics.get("performance", {}).get("metrics", {})
    if not values:  # no metrics.json, as with a script of the user's: what its log told
        values = {entry["MetricName"]: entry.get("Value") for entry in record.get("FinalMetricDataList") or []}
    folds = len(metrics.get("folds", ())) or record.get("HyperParameters", {}).get("folds", "1")
    epoch_title, folds_title = "of that epoch" if metrics else "metric", f"mean over {folds} folds"
    of_group = {PERFORMANCE: "on the validation rows", FOLDS: folds_title, TEST: "on the test rows"}
    titles = (epoch_title, *of_group.values())
    groups: dict[str, list[tuple[str, str]]] = {title: [] for title in titles}
    for name, value in values.items():
        if name.startswith("best_") and value == values.get(name.removeprefix("best_")):
            continue  # of the epoch that was kept, which the row without best_ is of
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in values:
            continue  # beside what they are the bounds of
        title = of_group.get(METRICS[name].group, epoch_title) if name in METRICS else epoch_title
        if title == folds_title and folds in (1, "1"):
            continue  # of one fold, whose rows are there already
        text = _written(value)
        bounds = [values.get(f"{name}_{end}") for end in ("low", "high")]
        if None not in bounds:
            text += f" ({_written(bounds[0])} to {_written(bounds[1])})"
        groups[title].append((name, text))
    return [(title, rows) for title, rows in groups.items() if rows]


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "nan" if value is None else str(value)


def print_tuning_job(job: Job, record: dict[str, Any], trials: list[dict[str, Any]], *, as_json: bool) -> None:
    """The status and the leaderboard of a tuning job."""
    if as_json:
        print_json({**record, "Trials": trials})
        return
    reason = f", {record['CompletionReason']}" if "CompletionReason" in record else ""
    say(f"{job.name}: {record['HyperParameterTuningJobStatus']}{reason}")
    print_table(*leaderboard_table(record, trials))


def print_end_of_tuning(job: Job, record: dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Where an ended tuning job's page is, what its best trial is worth and how it is published."""
    say(f"page: {job.folder / PAGE}")
    if best := best_of(trials, maximize=objective_of(record)[1]):
        if best.get("Kept", True):
            print_verdicts(read_metrics(job_of_trial(job, best).folder / "model"))
        print_luck(record)
        say(f"publish the best: python sagemaker/launch.py publish --best {job.name}")


def print_trial(job: Job, trial: dict[str, Any]) -> None:
    """The best trial of a tuning job or of a population: its objective, its settings and its verdicts."""
    objective = trial["FinalHyperParameterTuningJobObjectiveMetric"]
    say(f"{trial['TrainingJobName']}: {objective['MetricName']}={objective['Value']:.6g}")
    trained = job_of_trial(job, trial)
    record = trained.describe()
    settings = record.get("HyperParameters", {})
    if trained.member is not None:
        settings = settings_of_member(settings, _members(trained, record)[1], trained.member)
    print_table(
        ["setting", "value"], [[key, value] for key, value in settings.items() if not key.startswith("_tuning_")]
    )
    if trial.get("Kept", True):
        print_verdicts(read_metrics(trained.folder / "model"))
    print_luck(job.describe())
    say(f"publish it: python sagemaker/launch.py publish --best {job.name}")


def write_members(job: Job, record: dict[str, Any]) -> None:
    """Writes the leaderboard's files of an ended job that trained a population into its folder."""
    if _is_population(record) and read_metrics(job.folder / "model"):
        write_files(job.folder, *_members(job, record))


def _print_members(job: Job, record: dict[str, Any]) -> None:
    tuning, members = _members(job, record)
    if not members:  # it runs, and draws its points itself
        return
    say("")
    print_table(*leaderboard_table(tuning, members))
    if (page := job.folder / PAGE).exists():
        say(f"page: {page}")


def _is_population(record: dict[str, Any]) -> bool:
    return count_members(record.get("HyperParameters", {})) > 1


def _members(job: Job, record: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return population_of(record, read_metrics(job.folder / "model"))
