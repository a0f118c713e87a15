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
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

import click
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import prices
import request as requests
from ml.errors import UserError
from places import DockerPlace, LocalPlace

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
    click.option("--runs", type=click.Path(file_okay=False, path_type=Path), default=_HERE.parent / "runs",
                 envvar="POSITION_TRAINER_RUNS", help="Folder of the job folders.  [default: runs/ in the checkout]"),
    click.option("--region", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="AWS region."),
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")

_request_options = _options(
    click.option("--on", "place_name", type=click.Choice(["local", "docker", "aws"]), default="local",
                 show_default=True, help="Where: a process, a container of the image, or SageMaker."),
    click.option("--name", help="The job's exact name.  [default: the request's and the time]"),
    click.option("--set", "settings", multiple=True, callback=_pairs, metavar="NAME=VALUE",
                 help="Set a hyperparameter. Repeatable."),
    click.option("--prices", metavar="PATH", help="Price history: a Parquet or CSV file, a folder of them, or "
                                                  "s3://...; short for --channel train=PATH."),
    click.option("--channel", "channels", multiple=True, callback=_pairs, metavar="NAME=PATH",
                 help="A channel: a file, a folder or s3://.... Repeatable."),
    click.option("--sample-rows", type=click.IntRange(min=1000), default=None, hidden=True),
    # The account's
    click.option("--role", envvar="POSITION_TRAINER_ROLE", help="ARN of the role that the job runs as."),
    click.option("--image", envvar="POSITION_TRAINER_IMAGE", help="URI of the image."),
    click.option("--bucket", envvar="POSITION_TRAINER_BUCKET", help="S3 bucket for what jobs leave."),
    # The machine
    click.option("--instance-type", metavar="TYPE", help="Such as ml.g5.xlarge."),
    click.option("--volume-size", type=int, metavar="GB", help="Size of the instance's disk."),
    click.option("--max-runtime", type=int, metavar="SECONDS", help="Stop a job after that long."),
    click.option("--spot", is_flag=True, help="Use spot instances, with checkpoints in the bucket."),
    click.option("--max-wait", type=int, metavar="SECONDS", help="With --spot: waiting and running together.  "
                                                                 "[default: twice --max-runtime]"),
    click.option("--keep-alive", type=int, metavar="SECONDS", help="Keep the instance warm for the next job."),
    # The fences
    click.option("--subnet", "subnets", multiple=True, metavar="ID", help="VPC subnet. Repeatable."),
    click.option("--security-group", "security_groups", multiple=True, metavar="ID", help="Repeatable."),
    click.option("--kms-key", metavar="ID", help="Encrypt the volume and the results with it."),
    click.option("--network-isolation", is_flag=True, help="No network from inside the job."),
    click.option("--docker-network", envvar="POSITION_TRAINER_DOCKER_NETWORK", default="", metavar="NAME",
                 help="With --on docker: the containers' network.  [default: docker's]"),
    click.option("--env", "environment", multiple=True, callback=_pairs, metavar="NAME=VALUE",
                 help="Environment variable of the job. Repeatable."),
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
        except UserError as error:
            err.print(f"error: {error}", markup=False, soft_wrap=True)
        return context.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--settings-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              envvar="POSITION_TRAINER_SETTINGS",
              help="YAML with defaults for options: role, image, bucket, region, runs.  "
                   "[default: position-trainer.yaml here, or in ~/.config]")
@click.pass_context
def main(context, settings_file):
    """Train and tune position models: the same request as a process here, as a container, or on SageMaker."""
    path = settings_file or next((path for path in _SETTINGS_FILES if path.is_file()), None)
    if path:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"the settings file {path} cannot be read: {' '.join(str(error).split())}") from None
        known = ("role", "image", "bucket", "region", "runs")
        if not isinstance(values, dict) or set(values) - set(known):
            raise UserError(f"the settings file {path} may hold {', '.join(known)}, received "
                            f"{', '.join(map(str, values))}")
        context.default_map = dict.fromkeys(main.commands, values)


# Requests from options

def _completed(request: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The request with the command line's overrides, the account's facts and the metric definitions."""
    tuning = requests.operation_of(request) == requests.TUNING
    job = requests.training_part(request)
    name_key = "HyperParameterTuningJobName" if tuning else "TrainingJobName"
    request[name_key] = options["name"] or \
        f"{request.get(name_key, 'position-trainer')}-{datetime.now(timezone.utc):%y%m%d-%H%M%S}"
    algorithm, resources, stopping, results = (
        job.setdefault(key, {}) for key in
        ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition", "OutputDataConfig"))
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
            (job, "EnableManagedSpotTraining", options["spot"])):
        if value not in (None, False):
            part[key] = value
    if options["bucket"]:
        results["S3OutputPath"] = f"s3://{options['bucket']}/position-trainer/jobs"
    if options["spot"]:
        stopping.setdefault("MaxWaitTimeInSeconds", 2 * stopping.get("MaxRuntimeInSeconds", 0))
        job.setdefault("CheckpointConfig", {"S3Uri": results.get("S3OutputPath", "").removesuffix("/jobs")
                                            + "/checkpoints"})
    if options["subnets"] or options["security_groups"]:
        job["VpcConfig"] = {"Subnets": list(options["subnets"]), "SecurityGroupIds": list(options["security_groups"])}
    if options["environment"]:
        job["Environment"] = job.get("Environment", {}) | options["environment"]
    if options["tags"]:
        request["Tags"] = request.get("Tags", []) + [
            {"Key": key, "Value": value} for key, value in options["tags"].items()]
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
    entry = {"ChannelName": channel, "DataSource": {"S3DataSource": {
        "S3DataType": "S3Prefix", "S3Uri": path, "S3DataDistributionType": "FullyReplicated"}}}
    others = [other for other in job.get("InputDataConfig", []) if other.get("ChannelName") != channel]
    job["InputDataConfig"] = [*others, entry]


def _with_sample_market(request: dict[str, Any], runs: Path, rows: int, *, publish: bool) -> None:
    """Points a request that names no prices, for a place on this machine, to a simulated market."""
    parameters = requests.hyperparameters_of(request)
    if "prices_db" in parameters or requests.training_part(request).get("InputDataConfig"):
        return
    import inputs

    url, key = inputs.sample_market(runs, rows)
    err.print(f"no prices were named: a simulated market of {rows:,} minutes stands in ({url} {key})", soft_wrap=True)
    requests.set_hyperparameter(request, "prices_db", url)
    requests.set_hyperparameter(request, "prices_key", key)
    if publish and "model_db" not in parameters:
        requests.set_hyperparameter(request, "model_db", url)
        parameters.setdefault("model_key", "/ml/models/sample_market_model.h5")


def _place(options: dict[str, Any]):
    if options["place_name"] == "aws":
        from aws import AwsPlace

        return AwsPlace(options["runs"], options["region"])
    if options["place_name"] == "docker":
        return DockerPlace(options["runs"], options["docker_network"])
    return LocalPlace(options["runs"])


def _dump(request: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(request, indent=1, default=str) if as_json
               else yaml.safe_dump(request, sort_keys=False, allow_unicode=True).rstrip())


# train

@main.command()
@click.argument("request_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                default=_HERE / "training_job.yaml")
@_request_options
def train(request_file, **options):
    """Run one training job and follow it.

    REQUEST_FILE is a CreateTrainingJob request [default: sagemaker/training_job.yaml]. With no prices named,
    a place on this machine trains on a simulated market. Ctrl-C stops a job on this machine cleanly, and
    leaves a job on SageMaker running.
    """
    request = _completed(requests.read_request(request_file), options)
    place = _place(options)
    if place.name != "aws":
        _with_sample_market(request, options["runs"], options["sample_rows"] or 100_000, publish=True)
    requests.check(request, place.name)
    if options["dry_run"]:
        _dump(request, options["as_json"])
        return
    if place.name == "aws":
        err.print(prices.estimate(request, place.region), soft_wrap=True)
    name = place.start(request)
    if options["detach"]:
        _started(place, name, options["as_json"])
    else:
        err.print(f"job {name} on {place.name}", soft_wrap=True)
        sys.exit(_followed(place, name, options["as_json"]))


def _started(place, name: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(place.describe(name), indent=1, default=str))
    else:
        out.print(f"{name} runs on {place.name}; python sagemaker/launch.py logs {name}", soft_wrap=True)


def _followed(place, name: str, as_json: bool) -> int:
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
                    err.print(f"\n{name} goes on; come back with: python sagemaker/launch.py logs {name}",
                              soft_wrap=True)
                    return _INTERRUPTED
                interrupted = True
                err.print("\nstopping the job; once more leaves it to stop by itself")
                place.stop(name)
    record = place.describe(name)
    if record["TrainingJobStatus"] == "Completed":
        place.collect(name)
    _ended(place, record, as_json)
    return _INTERRUPTED if interrupted else 0 if record["TrainingJobStatus"] == "Completed" else 1


@contextlib.contextmanager
def _line_printer(console: Console) -> Iterator:
    """A function that shows a line of a log; on a terminal with the epochs' progress below."""
    if not console.is_terminal:
        yield lambda line: console.print(line, markup=False, soft_wrap=True)
        return
    with Progress(TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
                  TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(line):
            progress.console.print(line, markup=False, soft_wrap=True)
            if epoch := re.match(r"epoch=(\d+)/(\d+) ", line):
                progress.update(task, completed=int(epoch[1]), total=int(epoch[2]))
        yield show


def _ended(place, record: dict[str, Any], as_json: bool) -> None:
    """The summary of a job that ended; the reason of a failure is its last word."""
    if as_json:
        click.echo(json.dumps(record, indent=1, default=str))
    else:
        status, secondary = record["TrainingJobStatus"], record.get("SecondaryStatus")
        seconds = record.get("TrainingTimeInSeconds")
        out.print(f"\n{record['TrainingJobName']}: {status}"
                  + (f" ({secondary})" if secondary not in (status, None) else "")
                  + (f" after {seconds} s of training" if seconds is not None else ""), soft_wrap=True)
        if "BillableTimeInSeconds" in record:
            out.print(prices.bill(record, place.region), soft_wrap=True)
        if status != "Failed":
            _print_results(place.folder(record["TrainingJobName"]), record)
    if record["TrainingJobStatus"] == "Failed":
        err.print(record.get("FailureReason", "no reason was given"), markup=False, soft_wrap=True)


def _print_results(folder: Path, record: dict[str, Any]) -> None:
    """What a job measured, where its model is and how to load it."""
    metrics = {entry["MetricName"]: entry["Value"] for entry in record.get("FinalMetricDataList") or []}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / "model" / "metrics.json").read_text(encoding="utf-8"))
        metrics = content["best"]
        out.print(f"epoch {content['best_epoch']} of {len(content['epochs'])} was kept")
    if metrics:
        _print_table(["metric", "value"], [[name, "nan" if value is None else f"{value:.6g}"]
                                           for name, value in metrics.items() if not isinstance(value, dict | list)])
    model = folder / "model" / "model.keras"
    if not model.exists():
        return
    out.print(f"model: {model}", soft_wrap=True)
    out.print(f"load:  keras.models.load_model({str(model)!r})", soft_wrap=True, markup=False)
    parameters = record.get("HyperParameters", {})
    if parameters.get("model_db") and record["TrainingJobStatus"] == "Completed":
        out.print(f"kydb:  kydb.connect({parameters['model_db']!r})[{parameters.get('model_key', '')!r}]  "
                  "# bytes of the .h5", soft_wrap=True, markup=False)


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table where people look, tab-separated lines where programs do."""
    if not out.is_terminal:
        for row in [columns, *rows]:
            click.echo("\t".join(row))
        return
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table)


if __name__ == "__main__":
    main()
