"""The options of the commands, and the settings file with defaults for them."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aws_model import short
from ml.errors import UserError
from place.base import Place
from place.find import PLACES, make_place
from request import bucket_name
from yaml_files import read_yaml

HERE = Path(__file__).resolve().parent


def _settings_files() -> tuple[Path, ...]:
    found = [Path("position-trainer.yaml")]
    with contextlib.suppress(RuntimeError):  # a user without a home, as in some containers
        found.append(Path("~/.config/position-trainer.yaml").expanduser())
    return tuple(found)


SETTINGS_FILES = _settings_files()
RUNS = "position-trainer.runs"  # where a click context's `meta` has the folders that the command writes to

_IN_SETTINGS_FILES = ("role", "image", "bucket", "region", "runs")


def parse_pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE options as a dict."""
    wrong = [value for value in values if "=" not in value or value.startswith("=")]
    if wrong:
        raise click.BadParameter(f"must be NAME=VALUE, received {wrong[0]!r}")
    return dict(value.split("=", 1) for value in values)


def parse_runs(context: click.Context, _parameter: click.Parameter, value: Path) -> Path:
    """The runs folder, which the error boundary knows of as well."""
    if found := set(":;|") & set(str(value.absolute())):
        raise click.BadParameter(
            f"docker mounts and KYDB URLs take {' and '.join(sorted(found))} for separators; "
            f"name a folder without, received {str(value)!r}"
        )
    context.meta[RUNS] = [value]
    return value


def parse_bucket(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The name of a bucket, which may be given as s3://NAME/ as well."""
    try:
        return bucket_name(value) if value else value
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _together(*options: Callable) -> Callable:
    """One decorator for several."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class PricesCommand(click.Command):
    """A command whose --prices takes all that a shell makes of --prices *.parquet; a YAML file ends them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        parsed, taking = list[str](), False
        for number, arg in enumerate(args):
            if arg.startswith("-"):
                taking = arg == "--prices"
            elif taking and args[number - 1] != "--prices":
                taking = not arg.endswith((".yaml", ".yml"))
                if taking:
                    parsed.append("--prices")
            parsed.append(arg)
        return super().parse_args(ctx, parsed)


def request_argument(default: str) -> Callable:
    """The request's file; a file of this folder where none is given."""
    return click.argument(
        "request_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=HERE / default
    )


def refuse_request_beside_member(member: str | None) -> None:
    """Refuses a request's file in a command line that names --member, whose job has the request.

    Raises:
        click.UsageError: there is one.
    """
    given = click.get_current_context().get_parameter_source("request_file") is click.core.ParameterSource.COMMANDLINE
    if member and given:
        raise click.UsageError("--member trains by the request of the member's own job; received a REQUEST_FILE too")


def refuse_contrary_packs(options: dict[str, Any]) -> None:
    """Refuses options of a search that say two things about how many trials a job trains.

    Raises:
        click.UsageError: they do.
    """
    pack, parallel = options["pack"], options["max_parallel"]
    if pack > 1 and options["in_one_job"]:
        raise click.UsageError("--in-one-job trains all trials in one job, --pack a part of them; give one of the two")
    if parallel is not None and parallel < pack:
        raise click.UsageError(f"--max-parallel counts trials: must be at least --pack ({pack}), received {parallel}")


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
        callback=parse_runs,
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
        multiple=True,
        metavar="PATH...",
        help="Price history: files, a folder of them, or s3://...; the channel train. Repeatable.",
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
    click.option(
        "--bucket",
        envvar="POSITION_TRAINER_BUCKET",
        callback=parse_bucket,
        metavar="NAME",
        help="S3 bucket for what jobs leave.",
    ),
    # The machine
    click.option("--instance-type", metavar="TYPE", help="Such as ml.g5.xlarge."),
    click.option(
        "--instance-count",
        type=click.IntRange(min=1),
        metavar="N",
        help="Hosts: instances on aws; containers or processes that share this machine elsewhere.",
    ),
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
    click.option(
        "--kms-key",
        metavar="ID",
        help="Encrypt the results and the volume with it; a type with disks of its own (g5, p4d) encrypts them itself.",
    ),
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
    click.option("--no-check", is_flag=True, help="Do not look at price files of this machine before the start."),
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
        raise UserError(f"the settings file {path} must hold lines of NAME: VALUE, received {short(values)}")
    if unknown := [name for name in values if name not in _IN_SETTINGS_FILES]:
        raise UserError(
            f"the settings file {path} may hold {', '.join(_IN_SETTINGS_FILES)}, received "
            f"{', '.join(map(str, unknown[:5]))[:200]} too"
        )
    if wrong := [name for name, value in values.items() if not isinstance(value, str)]:
        raise UserError(
            f"the settings file {path}: {wrong[0]} must be text, received {short(values[wrong[0]])}; quote it"
        )
    if "runs" in values:
        values["runs"] = Path(values["runs"]).expanduser()
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
