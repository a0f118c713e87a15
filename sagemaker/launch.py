"""Starts, follows and tunes training jobs, on this machine or on SageMaker.

python sagemaker/launch.py train                                     # a simulated market, on this machine
python sagemaker/launch.py train --prices prices.parquet --set epochs=20
python sagemaker/launch.py train --on aws --prices s3://BUCKET/prices/ --spot
python sagemaker/launch.py tune --on docker --max-parallel 2
python sagemaker/launch.py COMMAND --help
"""

import contextlib
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

import click
import yaml
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

import aws
import inputs
import leaderboard
import prices
import request as requests
from ml.errors import UserError
from ml.files import write_json
from ml.settings import SETTINGS, Settings, parse_value
from places import LocalPlace, place_on_this_machine
from runner import FINAL

_HERE = Path(__file__).resolve().parent
_SETTINGS_FILES = (Path("position-trainer.yaml"), Path("~/.config/position-trainer.yaml").expanduser())
_INTERRUPTED = 130  # what a shell reports for Ctrl-C

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


# Options


def _pairs(_context, _parameter, values):
    """NAME=VALUE options as a dict."""
    wrong = [value for value in values if "=" not in value or value.startswith("=")]
    if wrong:
        raise click.BadParameter(f"must be NAME=VALUE, received {wrong[0]!r}")
    return dict(value.split("=", 1) for value in values)


def _options(*options):
    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_place_options = _options(
    click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        default=_HERE.parent / "runs",
        envvar="POSITION_TRAINER_RUNS",
        help="Folder of the job folders.  [default: runs/ in the checkout]",
    ),
    click.option("--region", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="AWS region."),
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")

_request_options = _options(
    click.option(
        "--on",
        "place_name",
        type=click.Choice(["local", "docker", "aws"]),
        default="local",
        show_default=True,
        help="Where: a process, a container of the image, or SageMaker.",
    ),
    click.option("--name", help="The job's exact name.  [default: the request's and the time]"),
    click.option(
        "--set",
        "settings",
        multiple=True,
        callback=_pairs,
        metavar="NAME=VALUE",
        help="Set a hyperparameter. Repeatable.",
    ),
    click.option(
        "--prices",
        metavar="PATH",
        help="Price history: a Parquet or CSV file, a folder of them, or s3://...; short for --channel train=PATH.",
    ),
    click.option(
        "--channel",
        "channels",
        multiple=True,
        callback=_pairs,
        metavar="NAME=PATH",
        help="A channel: a file, a folder or s3://.... Repeatable.",
    ),
    click.option(
        "--sample-rows",
        type=click.IntRange(min=1000),
        metavar="MINUTES",
        help="Length of the simulated market, where no prices are named.  [default: 100000; tune: 30000]",
    ),
    # The account's
    click.option("--role", envvar="POSITION_TRAINER_ROLE", help="ARN of the role that the job runs as."),
    click.option("--image", envvar="POSITION_TRAINER_IMAGE", help="URI of the image."),
    click.option("--bucket", envvar="POSITION_TRAINER_BUCKET", help="S3 bucket for what jobs leave."),
    # The machine
    click.option("--instance-type", metavar="TYPE", help="Such as ml.g5.xlarge."),
    click.option("--volume-size", type=int, metavar="GB", help="Size of the instance's disk."),
    click.option("--max-runtime", type=int, metavar="SECONDS", help="Stop a job after that long."),
    click.option("--spot", is_flag=True, help="Use spot instances, with checkpoints in the bucket."),
    click.option(
        "--max-wait",
        type=int,
        metavar="SECONDS",
        help="With --spot: waiting and running together.  [default: twice --max-runtime]",
    ),
    click.option("--keep-alive", type=int, metavar="SECONDS", help="Keep the instance warm for the next job."),
    # The fences
    click.option("--subnet", "subnets", multiple=True, metavar="ID", help="VPC subnet. Repeatable."),
    click.option("--security-group", "security_groups", multiple=True, metavar="ID", help="Repeatable."),
    click.option("--kms-key", metavar="ID", help="Encrypt the volume and the results with it."),
    click.option("--network-isolation", is_flag=True, help="No network from inside the job."),
    click.option(
        "--docker-network",
        envvar="POSITION_TRAINER_DOCKER_NETWORK",
        default="",
        metavar="NAME",
        help="With --on docker: the containers' network.  [default: docker's]",
    ),
    click.option(
        "--env",
        "environment",
        multiple=True,
        callback=_pairs,
        metavar="NAME=VALUE",
        help="Environment variable of the job. Repeatable.",
    ),
    click.option("--tag", "tags", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Repeatable."),
    # The launch
    click.option("--dry-run", is_flag=True, help="Check and print the request as YAML (or --json); start nothing."),
    click.option("--detach", is_flag=True, help="Return at once; `logs NAME` follows."),
    _json_option,
    _place_options,
)


class _Commands(click.Group):
    """Errors that a user can mend are one line each and exit code 1; the order of commands is a user's."""

    def list_commands(self, _context):
        return list(self.commands)

    def invoke(self, context):
        try:
            return super().invoke(context)
        except requests.WrongRequest as error:
            count = len(error.problems)
            err.print(f"the request has {count} problem{'s' * (count > 1)}, nothing was started:", style="bold red")
            for problem in error.problems:
                err.print(f"  {problem}", markup=False, soft_wrap=True)
        except NoCredentialsError:
            err.print("error: no AWS credentials were found; run `aws configure`, or set AWS_PROFILE")
        except (UserError, BotoCoreError, ClientError, OSError) as error:
            err.print(f"error: {error}", markup=False, soft_wrap=True)
        return context.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--settings-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="POSITION_TRAINER_SETTINGS",
    help="YAML with defaults for options: role, image, bucket, region, runs.  "
    "[default: position-trainer.yaml here, or in ~/.config]",
)
@click.pass_context
def main(context, settings_file):
    """Train and tune position models: the same request as a process here, as a container, or on SageMaker."""
    path = settings_file or next((path for path in _SETTINGS_FILES if path.is_file()), None)
    if path:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"the settings file {path} cannot be read: {' '.join(str(error).split())}") from None
        known = ("role", "image", "bucket", "region", "runs")
        if not isinstance(values, dict):
            raise UserError(f"the settings file {path} must hold lines of NAME: VALUE, received {values!r}")
        if unknown := [str(name) for name in values if name not in known]:
            raise UserError(f"the settings file {path} may hold {', '.join(known)}, received {', '.join(unknown)} too")
        if "runs" in values:
            values["runs"] = Path(str(values["runs"])).expanduser()
        context.default_map = dict.fromkeys(main.commands, values)
        # What `push` pushes is an image of this machine, and never the one that it pushed before.
        context.default_map["push"] = {name: value for name, value in values.items() if name != "image"}


# Requests from options


def _completed(request: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The request with the command line's overrides, the account's facts and the metric definitions."""
    tuning = requests.operation_of(request) == requests.TUNING
    job = requests.training_part(request)
    name_key = "HyperParameterTuningJobName" if tuning else "TrainingJobName"
    request[name_key] = (
        options["name"] or f"{request.get(name_key, 'position-trainer')}-{datetime.now(timezone.utc):%y%m%d-%H%M%S}"
    )
    algorithm, resources, stopping, results = (
        job.setdefault(key, {})
        for key in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition", "OutputDataConfig")
    )
    for part, key, value in (
        (job, "RoleArn", options["role"]),
        (algorithm, "TrainingImage", options["image"]),
        (resources, "InstanceType", options["instance_type"]),
        (resources, "VolumeSizeInGB", options["volume_size"]),
        (resources, "KeepAlivePeriodInSeconds", options["keep_alive"]),
        (resources, "VolumeKmsKeyId", options["kms_key"]),
        (results, "KmsKeyId", options["kms_key"]),
        (stopping, "MaxRuntimeInSeconds", options["max_runtime"]),
        (stopping, "MaxWaitTimeInSeconds", options["max_wait"]),
        (job, "EnableNetworkIsolation", options["network_isolation"]),
        (job, "EnableManagedSpotTraining", options["spot"]),
    ):
        if value is not None and value is not False:  # 0 is a value
            part[key] = value
    if options["bucket"]:
        results["S3OutputPath"] = f"s3://{options['bucket']}/position-trainer/jobs"
    if options["spot"]:
        stopping.setdefault("MaxWaitTimeInSeconds", 2 * stopping.get("MaxRuntimeInSeconds", 0))
        # A prefix for each job: SageMaker brings all that is under it to the instance, and mirrors deletions.
        job.setdefault(
            "CheckpointConfig",
            {"S3Uri": results.get("S3OutputPath", "").removesuffix("/jobs") + f"/checkpoints/{request[name_key]}"},
        )
    if options["subnets"] or options["security_groups"]:
        job["VpcConfig"] = {"Subnets": list(options["subnets"]), "SecurityGroupIds": list(options["security_groups"])}
    if options["environment"]:
        job["Environment"] = job.get("Environment", {}) | options["environment"]
    if options["tags"]:
        request["Tags"] = request.get("Tags", []) + [
            {"Key": key, "Value": value} for key, value in options["tags"].items()
        ]
    if options["place_name"] == "docker" and requests.PLACEHOLDER_ACCOUNT in str(algorithm.get("TrainingImage")):
        algorithm["TrainingImage"] = "position-trainer"  # what `make image` builds
    for name, value in options["settings"].items():
        requests.set_hyperparameter(request, name, value)
    channels = dict(options["channels"])
    if options["prices"]:
        channels["train"] = options["prices"]
    for channel, path in channels.items():
        _set_channel(job, channel, path)
    requests.add_metric_definitions(request)
    return request


def _set_channel(job: dict[str, Any], channel: str, path: str) -> None:
    if not path.startswith("s3://"):
        if not Path(path).exists():
            raise UserError(f"channel {channel}: there is no file or folder {path}")
        path = Path(path).resolve().as_uri()
    entry = {
        "ChannelName": channel,
        "DataSource": {
            "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": path, "S3DataDistributionType": "FullyReplicated"}
        },
    }
    others = [other for other in job.get("InputDataConfig", []) if other.get("ChannelName") != channel]
    job["InputDataConfig"] = [*others, entry]


def _with_sample_market(request: dict[str, Any], options: dict[str, Any], rows: int) -> None:
    """Points a request that names no prices, for a place on this machine, to a simulated market."""
    rows = options["sample_rows"] or rows
    parameters = requests.hyperparameters_of(request)
    if "prices_db" in parameters or requests.training_part(request).get("InputDataConfig"):
        return
    url, key = inputs.sample_market(options["runs"], rows, write=not options["dry_run"])
    err.print(f"no prices were named: a simulated market of {rows:,} minutes stands in ({url} {key})", soft_wrap=True)
    requests.set_hyperparameter(request, "prices_db", url)
    requests.set_hyperparameter(request, "prices_key", key)
    if "model_db" not in parameters:
        requests.set_hyperparameter(request, "model_db", url)
        parameters.setdefault("model_key", f"/ml/models/sample_market_{rows}_model.h5")


def _place(options: dict[str, Any]):
    if options["place_name"] == "aws":
        return aws.AwsPlace(options["runs"], options["region"])
    return place_on_this_machine(options["place_name"], options["runs"], options["docker_network"])


# train


@main.command()
@click.argument(
    "request_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=_HERE / "training_job.yaml"
)
@_request_options
def train(request_file, **options):
    """Run one training job and follow it.

    REQUEST_FILE is a CreateTrainingJob request [default: sagemaker/training_job.yaml]. With no prices named,
    a place on this machine trains on a simulated market. Ctrl-C stops a job on this machine cleanly, and
    leaves a job on SageMaker running.
    """
    request = _completed(requests.read_request(request_file, requests.TRAINING), options)
    place = _place(options)
    if place.name != "aws":
        _with_sample_market(request, options, 100_000)
    if not _ready(request, place, options):
        return
    name = place.start(request)
    if options["detach"]:
        _started(place.describe(name), name, options["as_json"])
        return
    err.print(f"job {name} on {place.name}", soft_wrap=True)
    sys.exit(_followed(place, name, as_json=options["as_json"]))


def _ready(request: dict[str, Any], place, options: dict[str, Any]) -> bool:
    """Checks a request, or only prints it for --dry-run; on aws also uploads and says what it may cost."""
    uploads = []
    if place.name == "aws":
        uploads = aws.channels_in_s3(request, request.get("TrainingJobName") or request["HyperParameterTuningJobName"])
    requests.check(request, place.name)
    if options["dry_run"]:
        click.echo(
            json.dumps(request, indent=1, default=str)
            if options["as_json"]
            else yaml.safe_dump(request, sort_keys=False, allow_unicode=True).rstrip()
        )
        return False
    if place.name == "aws":
        err.print(prices.estimate(request, place.region), soft_wrap=True)
        place.upload(uploads)
    return True


def _started(record: dict[str, Any], name: str, as_json: bool) -> None:
    if as_json:
        _print_json(record)
    else:
        out.print(f"{name} was started; follow it with: python sagemaker/launch.py logs {name}", soft_wrap=True)


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1, default=str))


def _followed(place, name: str, *, as_json: bool) -> int:
    """Shows a job until it ends, then what it came to; returns the exit code."""
    shown = 0
    interrupted = False
    with _line_printer(err if as_json else out) as show:
        while True:
            try:
                for line in itertools.islice(place.lines(name, follow=True), shown, None):
                    show(line)
                    shown += 1
                break
            except KeyboardInterrupt:
                if place.name == "aws" or interrupted:
                    _print_way_back(name)
                    return _INTERRUPTED
                interrupted = True
                err.print("\nstopping the job; once more leaves it to stop by itself")
                place.stop(name)
            except (BotoCoreError, ClientError):  # no network any more, or credentials that ran out
                _print_way_back(name)
                raise
    record = place.describe(name)
    if record["TrainingJobStatus"] == "Completed":
        place.collect(name)
    _ended(place, record, as_json=as_json)
    return _INTERRUPTED if interrupted else 0 if record["TrainingJobStatus"] == "Completed" else 1


def _print_way_back(name: str) -> None:
    err.print(f"\n{name} goes on; come back with: python sagemaker/launch.py logs {name}", soft_wrap=True)


@contextlib.contextmanager
def _line_printer(console: Console) -> Iterator:
    """A function that shows a line of a log; on a terminal with the epochs' progress below."""
    if not console.is_terminal:
        yield lambda line: console.print(line, markup=False, soft_wrap=True)
        return
    with Progress(
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)

        def show(line):
            progress.console.print(line, markup=False, soft_wrap=True)
            if epoch := re.match(r"epoch=(\d+)/(\d+) ", line):
                progress.update(task, completed=int(epoch[1]), total=int(epoch[2]))

        yield show


def _ended(place, record: dict[str, Any], *, as_json: bool) -> None:
    """The summary of a job that ended; the reason of a failure is its last word."""
    if as_json:
        _print_json(record)
    else:
        status, secondary = record["TrainingJobStatus"], record.get("SecondaryStatus")
        seconds = record.get("TrainingTimeInSeconds")
        out.print(
            f"\n{record['TrainingJobName']}: {status}"
            + (f" ({secondary})" if secondary not in (status, None) else "")
            + (f" after {seconds} s of training" if seconds is not None else ""),
            soft_wrap=True,
        )
        if "BillableTimeInSeconds" in record:
            out.print(prices.bill(record, place.region), soft_wrap=True)
        if status != "Failed":
            _print_results(place.folder(record["TrainingJobName"]), record)
    if record["TrainingJobStatus"] == "Failed":
        err.print(record.get("FailureReason", "no reason was given"), markup=False, soft_wrap=True)


def _print_results(folder: Path, record: dict[str, Any]) -> None:
    """What a job measured, where its model is and how to load it."""
    kept = _metrics_in(folder)
    metrics = kept.get("best") or {
        entry["MetricName"]: entry["Value"] for entry in record.get("FinalMetricDataList") or []
    }
    performance = kept.get("performance", {})
    if kept:
        out.print(f"epoch {kept['best_epoch']} of {len(kept['epochs'])} was kept")
    if metrics:
        _print_table(
            ["metric", "value"],
            [
                [name, "nan" if value is None else f"{value:.6g}"]
                for name, value in (metrics | performance.get("metrics", {})).items()
            ],
        )
    _print_verdicts(performance)
    if (report := folder / "output" / "data" / "report.html").exists():
        out.print(f"report: {report}", soft_wrap=True)
    model = folder / "model" / "model.keras"
    if not model.exists():
        return
    out.print(f"model: {model}", soft_wrap=True)
    out.print(f"load:  keras.models.load_model({str(model)!r})", soft_wrap=True, markup=False)
    parameters = record.get("HyperParameters", {})
    if kept.get("published") is False:
        out.print(
            f"NOT published to KYDB: python sagemaker/launch.py publish {record['TrainingJobName']}",
            soft_wrap=True,
            markup=False,
        )
    elif kept.get("published"):
        out.print(
            f"kydb:  kydb.connect({parameters['model_db']!r})"
            f"[{parameters.get('model_key', SETTINGS['model_key'].default)!r}]  "
            "# bytes of the .h5",
            soft_wrap=True,
            markup=False,
        )


def _print_verdicts(performance: dict[str, Any]) -> None:
    for verdict in ("verdict", "profit_verdict"):
        if verdict in performance:
            out.print(performance[verdict], soft_wrap=True, markup=False)


def _metrics_in(folder: Path) -> dict[str, Any]:
    """What a job in that folder measured; nothing where it left no metrics.json, or a script of the user's its own."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / "model" / "metrics.json").read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"best", "best_epoch", "epochs"} <= content.keys():
            return content
    return {}


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table where people look, tab-separated lines where programs do."""
    if out.is_terminal:
        out.print(_table(columns, rows))
        return
    for row in [columns, *rows]:
        click.echo("\t".join(row))


def _table(columns: list[str], rows: list[list[str]]) -> Table:
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


# tune


@main.command()
@click.argument(
    "request_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=_HERE / "tuning_job.yaml"
)
@click.option("--resume", metavar="NAME", help="Go on with a tuning job of this machine that was killed or stopped.")
@click.option("--max-jobs", type=int, help="Trials in all.")
@click.option("--max-parallel", type=int, help="Trials at a time; on this machine they share the cores.")
@click.option("--strategy", metavar="NAME", help="Bayesian, Random, Hyperband or Grid.")
@click.option(
    "--warm-start", "parents", multiple=True, metavar="NAME", help="Learn from an earlier tuning job. Repeatable."
)
@_request_options
def tune(request_file, resume, max_jobs, max_parallel, strategy, parents, **options):
    """Search for the hyperparameters with the best objective.

    REQUEST_FILE is a CreateHyperParameterTuningJob request [default: sagemaker/tuning_job.yaml]. On aws
    SageMaker searches; elsewhere the launcher does, by the same rules. Trials publish nothing: `publish --best
    NAME` publishes the winner. The leaderboard, a CSV file and a page are in runs/NAME.
    """
    place = _place(options)
    if resume:
        _refuse_options_beside_resume()
        place.resume_tuning(resume)
        name = resume
    else:
        request = requests.read_request(request_file, requests.TUNING)
        config = request["HyperParameterTuningJobConfig"]
        config.setdefault("ResourceLimits", {}).update(
            {
                key: value
                for key, value in (("MaxNumberOfTrainingJobs", max_jobs), ("MaxParallelTrainingJobs", max_parallel))
                if value is not None
            }
        )
        if strategy:
            config["Strategy"] = strategy
        most = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {}).get("MaxResource")
        if most and "sagemaker_program" not in requests.hyperparameters_of(request):  # the resource of our jobs
            requests.hyperparameters_of(request).setdefault("epochs", str(most))
        if parents:
            request["WarmStartConfig"] = {
                "WarmStartType": "IdenticalDataAndAlgorithm",
                "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": parent} for parent in parents],
            }
        request = _completed(request, options)
        if place.name != "aws":
            _with_sample_market(request, options, 30_000)
        model_db = requests.hyperparameters_of(request).pop("model_db", "")
        if not _ready(request, place, options):
            return
        if place.name == "aws":
            if model_db:
                err.print("trials publish nothing; `publish --best NAME --model-db URL` publishes the winner")
            name = place.start_tuning(request)
        else:
            name = place.start_tuning(request, ModelDb=model_db, DockerNetwork=options["docker_network"])
    if options["detach"]:
        _started(place.describe_tuning(name), name, options["as_json"])
        return
    err.print(f"tuning job {name} on {place.name}", soft_wrap=True)
    sys.exit(_followed_tuning(place, name, as_json=options["as_json"]))


def _refuse_options_beside_resume() -> None:
    context = click.get_current_context()
    given = [
        parameter.get_error_hint(context)
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
        and parameter.name not in ("resume", "detach", "as_json", "runs")
    ]
    if given:
        raise click.UsageError(
            f"--resume goes on with the request that the tuning job had; received "
            f"{', '.join(given)} too. A new search may learn from it: --warm-start NAME"
        )


def _followed_tuning(place, name: str, *, as_json: bool) -> int:
    """Shows a tuning job until it ends, then its leaderboard; returns the exit code."""
    interrupted = False
    while True:
        try:
            _watch_tuning(place, name, err if as_json else out)
            break
        except KeyboardInterrupt:
            if place.name == "aws" or interrupted:
                _print_way_back(name)
                return _INTERRUPTED
            interrupted = True
            err.print("\nstopping the tuning job; once more leaves it to stop by itself")
            place.stop_tuning(name)
        except (BotoCoreError, ClientError):
            _print_way_back(name)
            raise
    tuning, trials = place.describe_tuning(name), place.trials(name)
    status = tuning["HyperParameterTuningJobStatus"]
    if place.name == "aws":
        place.folder(name).mkdir(parents=True, exist_ok=True)
        leaderboard.write_files(place.folder(name), tuning, trials)
    if as_json:
        _print_json({**tuning, "Trials": trials})
    else:
        out.print(
            f"\n{name}: {status}" + (f", {tuning['CompletionReason']}" if "CompletionReason" in tuning else ""),
            soft_wrap=True,
        )
        _print_table(*leaderboard.table(tuning, trials))
        out.print(f"page: {place.folder(name) / leaderboard.PAGE}", soft_wrap=True)
        if found := leaderboard.best_of(trials, maximize=requests.objective_of(tuning)[1]):
            _print_verdicts(_metrics_in(place.folder(found["TrainingJobName"])).get("performance", {}))
            out.print(f"publish the best: python sagemaker/launch.py publish --best {name}", soft_wrap=True)
        if interrupted:
            out.print(f"go on: python sagemaker/launch.py tune --resume {name}", soft_wrap=True)
    if status == "Failed":
        err.print(tuning.get("FailureReason", "no reason was given"), markup=False, soft_wrap=True)
    return _INTERRUPTED if interrupted else 0 if status == "Completed" else 1


def _watch_tuning(place, name: str, console: Console) -> None:
    """A leaderboard that renews itself on a terminal, a line for each change elsewhere; until the end."""
    told = dict[str, str]()
    seconds = 10 if place.name == "aws" else 0.5
    with (
        Live(console=console, auto_refresh=False, transient=True)
        if console.is_terminal
        else contextlib.nullcontext() as live
    ):
        while True:
            tuning, trials = place.describe_tuning(name), place.trials(name)
            if live:
                live.update(_table(*leaderboard.table(tuning, trials)), refresh=True)
            for trial in [] if live else trials:
                value = leaderboard.objective_value(trial)
                status = trial["TrainingJobStatus"]
                if told.get(trial["TrainingJobName"]) != status:
                    told[trial["TrainingJobName"]] = status
                    console.print(
                        f"{trial['TrainingJobName']} {status}"
                        + (
                            f" {requests.objective_of(tuning)[0]}={value:.6g}"
                            if value is not None and status in FINAL
                            else ""
                        ),
                        soft_wrap=True,
                    )
            if tuning["HyperParameterTuningJobStatus"] in FINAL:
                return
            time.sleep(seconds)


# Jobs that were started

_name_argument = click.argument("name")
_on_option = click.option(
    "--on",
    "place_name",
    type=click.Choice(["local", "docker", "aws"]),
    help="Where the job is.  [default: this machine if it is here, else aws]",
)


def _place_of(name: str, options: dict[str, Any]):
    """The place that a job of that name is in, and whether it is a tuning job."""
    here = LocalPlace(options["runs"])
    if options["place_name"] != "aws" and (here.has(name) or here.has_tuning(name)):
        tuning = here.has_tuning(name)
        record = here.describe_tuning(name) if tuning else here.describe(name)
        return place_on_this_machine(record["Place"], options["runs"]), tuning
    if options["place_name"] in ("local", "docker"):
        raise UserError(f"there is no job {name} in {options['runs']}; `list` shows those there are")
    place = aws.AwsPlace(options["runs"], options["region"])
    try:
        region = place.region
        with contextlib.suppress(aws.NoSuchJob):
            place.describe(name)
            return place, False
        place.describe_tuning(name)
        return place, True
    except aws.NoSuchJob:
        raise UserError(
            f"there is no job {name}, neither in {options['runs']} nor on SageMaker in {region}; "
            "`list` and `list --on aws` show those there are"
        ) from None
    except (UserError, BotoCoreError) as error:
        if options["place_name"]:
            raise
        raise UserError(
            f"there is no job {name} in {options['runs']}, where `list` shows those there are, and "
            f"SageMaker cannot be asked: {error}"
        ) from None


def _record_of(place, name: str, *, tuning: bool) -> tuple[dict[str, Any], str]:
    """The record of a training or tuning job, and its status."""
    record = place.describe_tuning(name) if tuning else place.describe(name)
    return record, record["HyperParameterTuningJobStatus" if tuning else "TrainingJobStatus"]


@main.command()
@_name_argument
@click.option("--collect", is_flag=True, help="Bring what a job on aws left into runs/NAME.")
@_on_option
@_json_option
@_place_options
def status(name, collect, as_json, **options):
    """Show how a training or tuning job stands."""
    place, tuning = _place_of(name, options)
    if collect and not tuning:
        place.collect(name)
    if not tuning:
        _ended(place, place.describe(name), as_json=as_json)
        return
    record, trials = place.describe_tuning(name), place.trials(name)
    if as_json:
        _print_json({**record, "Trials": trials})
        return
    out.print(f"{name}: {record['HyperParameterTuningJobStatus']}", soft_wrap=True)
    _print_table(*leaderboard.table(record, trials))
    if "FailureReason" in record:
        err.print(record["FailureReason"], markup=False, soft_wrap=True)


@main.command()
@_name_argument
@click.option("--no-follow", is_flag=True, help="Print what there is and end.")
@_on_option
@_place_options
def logs(name, no_follow, **options):
    """Print a job's log and follow it to its end; Ctrl-C leaves the job alone."""
    place, tuning = _place_of(name, options)
    try:
        if tuning and place.name == "aws":
            if no_follow:
                _print_table(*leaderboard.table(place.describe_tuning(name), place.trials(name)))
            else:
                _watch_tuning(place, name, out)
        else:
            with _line_printer(out) as show:
                for line in place.lines(name, follow=not no_follow):
                    show(line)
    except KeyboardInterrupt:
        _print_way_back(name)
        sys.exit(_INTERRUPTED)
    record, status = _record_of(place, name, tuning=tuning)
    if status == "Failed":
        err.print(record.get("FailureReason", "no reason was given"), markup=False, soft_wrap=True)
        sys.exit(1)


@main.command()
@_name_argument
@_on_option
@_place_options
def stop(name, **options):
    """Ask a training or tuning job to end; a training job keeps the best model so far."""
    place, tuning = _place_of(name, options)
    if place.name != "aws":  # which says so itself
        _, status = _record_of(place, name, tuning=tuning)
        left = tuning and any(trial["TrainingJobStatus"] not in FINAL for trial in place.trials(name))
        if status in FINAL and not left:
            out.print(f"{name} has ended already: {status}", soft_wrap=True)
            return
    (place.stop_tuning if tuning else place.stop)(name)
    out.print(f"{name} was asked to stop; python sagemaker/launch.py status {name}", soft_wrap=True)


@main.command("list")
@click.option(
    "--on",
    "place_name",
    type=click.Choice(["local", "docker", "aws"]),
    default="local",
    help="local and docker both show this machine's jobs.  [default: local]",
)
@_json_option
@_place_options
def list_(as_json, **options):
    """List training and tuning jobs, the newest first; trials are in their tuning job's status."""
    place = _place({**options, "docker_network": ""})
    jobs, tunings = place.records()
    if as_json:
        _print_json({"TrainingJobSummaries": jobs, "HyperParameterTuningJobSummaries": tunings})
        return
    rows = [
        (str(job["CreationTime"]), kind, job[f"{key}Name"], job[f"{key}Status"])
        for kind, key, found in (("train", "TrainingJob", jobs), ("tune", "HyperParameterTuningJob", tunings))
        for job in found
    ]
    _print_table(
        ["kind", "name", "status", "created"],
        [
            [kind, name, status, created[:19].replace("T", " ")]
            for created, kind, name, status in sorted(rows, reverse=True)
        ],
    )


@main.command()
@_name_argument
@_on_option
@_json_option
@_place_options
def best(name, as_json, **options):
    """Show a tuning job's best trial and its settings."""
    place, trial = _best_of(name, options)
    if as_json:
        _print_json(trial)
        return
    out.print(
        f"{trial['TrainingJobName']}: {requests.objective_of(place.describe_tuning(name))[0]}="
        f"{leaderboard.objective_value(trial):.6g}",
        soft_wrap=True,
    )
    settings = place.describe(trial["TrainingJobName"])["HyperParameters"]
    _print_table(
        ["setting", "value"], [[key, value] for key, value in settings.items() if not key.startswith("_tuning_")]
    )
    _print_verdicts(_metrics_in(place.folder(trial["TrainingJobName"])).get("performance", {}))
    out.print(f"publish it: python sagemaker/launch.py publish --best {name}", soft_wrap=True)


def _best_of(name: str, options: dict[str, Any]):
    """The place of a tuning job and the summary of its best trial."""
    place, tuning = _place_of(name, options)
    if not tuning:
        raise UserError(f"{name} is a training job; name a tuning job")
    found = leaderboard.best_of(place.trials(name), maximize=requests.objective_of(place.describe_tuning(name))[1])
    if found is None:
        raise UserError(f"no trial of {name} has ended with an objective yet; `status {name}` shows them")
    return place, found


@main.command()
@_name_argument
@click.option("--best", "of_tuning", is_flag=True, help="NAME is a tuning job: publish its best trial.")
@click.option("--model-db", metavar="URL", help="KYDB URL.  [default: the job's model_db]")
@click.option("--model-key", metavar="KEY", help="KYDB key.  [default: the job's model_key]")
@_on_option
@_json_option
@_place_options
def publish(name, of_tuning, model_db, model_key, as_json, **options):
    """Publish a finished job's model to KYDB: after network isolation, or a tuning job's winner."""
    if of_tuning:
        place, trial = _best_of(name, options)
        model_db = model_db or place.describe_tuning(name).get("ModelDb", "")
        name = trial["TrainingJobName"]
    else:
        place, tuning = _place_of(name, options)
        if tuning:
            raise UserError(f"{name} is a tuning job; publish --best {name} publishes its best trial")
    record = place.describe(name)
    if record["TrainingJobStatus"] not in ("Completed", "Stopped"):
        raise UserError(f"{name} is {record['TrainingJobStatus']}; only a job that ended well has a model to publish")
    parameters = record.get("HyperParameters", {})
    url = parse_value("model_db", model_db or parameters.get("model_db", ""))
    key = parse_value("model_key", model_key or parameters.get("model_key", SETTINGS["model_key"].default))
    if not url:
        raise UserError(f"{name} names no KYDB to publish to; give --model-db URL")
    folder = place.collect(name)
    metrics = _metrics_in(folder)
    if metrics.get("best_epoch") == 0:
        raise UserError(f"{name} was stopped before its first epoch ended; its model is not worth publishing")
    path = _h5_file(folder / "model", parameters)
    from ml.deliver import publishing  # with kydb and pandas, which no other command needs

    publishing.publish(url, key, path.read_bytes(), name)
    if metrics and [url, key] == [
        parameters.get("model_db"),
        parameters.get("model_key", SETTINGS["model_key"].default),
    ]:
        write_json(folder / "model" / "metrics.json", metrics | {"published": True})
    if as_json:
        _print_json({"TrainingJobName": name, "ModelDb": url, "ModelKey": key, "File": str(path)})
    else:
        _print_verdicts(metrics.get("performance", {}))
        out.print(f"published {path} to {url} {key}", soft_wrap=True)


def _h5_file(folder: Path, parameters: dict[str, str]) -> Path:
    """The .h5 file that a job left, named by its model key."""
    named = folder / Settings(model_key=parameters.get("model_key", SETTINGS["model_key"].default)).h5_name
    found = [named] if named.is_file() else sorted(folder.glob("*.h5"))
    if len(found) != 1:
        raise UserError(f"{folder} must have one .h5 file, found {', '.join(path.name for path in found) or 'none'}")
    return found[0]


@main.command()
@click.option("--image", default="position-trainer", show_default=True, help="Image on this machine.")
@click.option("--repository", default="position-trainer", show_default=True, help="ECR repository; made if missing.")
@_json_option
@_place_options
def push(image, repository, as_json, **options):
    """Push the image to ECR and print the URI that --image takes."""
    uri = aws.AwsPlace(options["runs"], options["region"]).push(image, repository)
    if as_json:
        _print_json({"TrainingImage": uri})
    else:
        out.print(uri, soft_wrap=True)


if __name__ == "__main__":
    main()
