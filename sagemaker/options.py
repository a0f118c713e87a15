"""The options of the commands, and the settings file with defaults for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from build import read_yaml
from ml.errors import UserError
from place.base import Place
from place.find import PLACES, make_place

HERE = Path(__file__).resolve().parent
SETTINGS_FILES = (Path("position-trainer.yaml"), Path("~/.config/position-trainer.yaml").expanduser())

_IN_SETTINGS_FILES = ("role", "image", "bucket", "region", "runs")


def parse_pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE options as a dict."""
    wrong = [value for value in values if "=" not in value or value.startswith("=")]
    if wrong:
        raise click.BadParameter(f"must be NAME=VALUE, received {wrong[0]!r}")
    return dict(value.split("=", 1) for value in values)


def _together(*options: Callable) -> Callable:
    """One decorator for several."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def request_argument(default: str) -> Callable:
    """The request's file; a file of this folder where none is given."""
    return click.argument(
        "request_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=HERE / default
    )


name_argument = click.argument("name")
on_option = click.option(
    "--on",
    "place_name",
    type=click.Choice(PLACES),
    help="Where the job is.  [default: this machine if it is here, else aws]",
)
place_options = _together(
    click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        default=HERE.parent / "runs",
        envvar="POSITION_TRAINER_RUNS",
        help="Folder of the job folders.  [default: runs/ in the checkout]",
    ),
    click.option("--region", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="AWS region."),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")

request_options = _together(
    click.option(
        "--on",
        "place_name",
        type=click.Choice(PLACES),
        default="local",
        show_default=True,
        help="Where: a process, a container of the image, or SageMaker.",
    ),
    click.option("--name", help="The job's exact name.  [default: the request's and the time]"),
    click.option(
        "--set",
        "settings",
        multiple=True,
        callback=parse_pairs,
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
        callback=parse_pairs,
        metavar="NAME=PATH",
        help="A channel: a file, a folder or s3://.... Repeatable.",
    ),
    click.option(
        "--sample-rows",
        type=click.IntRange(min=1000),
        metavar="MINUTES",
        help="Length of the simulated market, where no prices are named.  [default: 100000; tune: 30000]",
    ),
    click.option(
        "--sample-instruments",
        type=click.IntRange(1, 1000),
        default=1,
        metavar="N",
        help="Simulated markets that move together, the last one noise, to train one model on.  [default: 1]",
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
        callback=parse_pairs,
        metavar="NAME=VALUE",
        help="Environment variable of the job. Repeatable.",
    ),
    click.option("--tag", "tags", multiple=True, callback=parse_pairs, metavar="NAME=VALUE", help="Repeatable."),
    # The launch
    click.option("--no-doctor", is_flag=True, help="With --on aws: do not look at the account before the start."),
    click.option("--dry-run", is_flag=True, help="Check and print the request as YAML (or --json); start nothing."),
    click.option("--detach", is_flag=True, help="Return at once; `logs NAME` follows."),
    json_option,
    place_options,
)


def read_settings_file(path: Path) -> dict[str, Any]:
    """Defaults for options, by their names.

    Raises:
        UserError: it cannot be read, or holds anything else.
    """
    values = read_yaml(path, "settings file") or {}
    if not isinstance(values, dict):
        raise UserError(f"the settings file {path} must hold lines of NAME: VALUE, received {values!r}")
    if unknown := [str(name) for name in values if name not in _IN_SETTINGS_FILES]:
        raise UserError(
            f"the settings file {path} may hold {', '.join(_IN_SETTINGS_FILES)}, received {', '.join(unknown)} too"
        )
    if "runs" in values:
        values["runs"] = Path(str(values["runs"])).expanduser()
    return values


def place_of(options: dict[str, Any]) -> Place:
    """The place that the options name."""
    return make_place(options["place_name"], options["runs"], options["region"], options.get("docker_network", ""))


def refuse_options_beside_resume() -> None:
    """Refuses options of a request in a command line that names --resume.

    Raises:
        click.UsageError: with those that were given.
    """
    context = click.get_current_context()
    given = [
        parameter.get_error_hint(context)
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
        and parameter.name not in ("resume", "detach", "as_json", "runs")
    ]
    if given:
        raise click.UsageError(
            f"--resume goes on with the request that the tuning job had; received "
            f"{', '.join(given)} too. A new search may learn from it: --warm-start NAME"
        )
