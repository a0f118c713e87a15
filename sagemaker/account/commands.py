"""The commands of an account: push, setup, doctor, schedule, clean."""

import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

import account.clean as cleaning
import account.schedule as schedules
import account.setup as setting_up
from account.doctor import OK, WRONG, Finding, examined, told
from account.template import Access, account_template, endpoints, permissions, template_text
from build import build_training_request, build_tuning_request, read_yaml
from console import print_json, print_table, remark, say
from image import refuse_wrong_platform
from ml.errors import UserError
from options import SETTINGS_FILES, json_option, place_options, request_argument, request_options
from place.aws import AwsPlace
from request import TUNING, operation_of
from rules import check

# Of the options of a request those that say where it runs and how it is followed; here it is SageMaker.
_ELSEWHERE = {
    "place_name": "aws",
    "docker_network": "",
    "sample_rows": None,
    "dry_run": False,
    "detach": False,
    "no_check": False,
    "no_doctor": False,
}
_SEARCH = {"max_jobs": None, "max_parallel": None, "strategy": None, "parents": ()}


def add_commands(main: click.Group) -> None:
    """Adds the commands to the launcher's."""
    for command in (push, setup, doctor, schedule, clean):
        main.add_command(command)


def _request_on_aws(command: Callable) -> Callable:
    """The request's file and options, without those that make no sense for a request to SageMaker."""
    command = request_argument("training_job.yaml")(request_options(command))
    parameters = command.__click_params__  # type: ignore[attr-defined] - where click keeps a command's options
    parameters[:] = [each for each in parameters if each.name not in _ELSEWHERE]
    return command


def _request_and_place(request_file: Path, options: dict[str, Any]) -> tuple[dict[str, Any], AwsPlace]:
    """The checked request in a file with the options' overrides, for training or for tuning, and SageMaker."""
    options = {**options, **_ELSEWHERE, **_SEARCH}
    place = AwsPlace(options["runs"], options["region"])
    content = read_yaml(request_file, "request")
    if isinstance(content, dict) and operation_of(content) == TUNING:
        request, _ = build_tuning_request(request_file, options, place)
    else:
        request = build_training_request(request_file, options, place)
    return request, place


# setup


@click.command()
@click.option("--kydb", multiple=True, metavar="URL", help="A KYDB that jobs read and write. Repeatable.")
@click.option("--read", multiple=True, metavar="URL", help="A KYDB or an S3 prefix that jobs only read. Repeatable.")
@click.option("--bucket", help="Name of the bucket.  [default: position-trainer-ACCOUNT-REGION]")
@click.option("--subnet", "--vpc-subnets", "subnets", multiple=True, metavar="ID", help="VPC subnet. Repeatable.")
@click.option("--security-group", "security_groups", multiple=True, metavar="ID", help="Repeatable.")
@click.option("--kms-key", metavar="ARN", default="", help="A key that jobs encrypt with.")
@click.option("--dry-run", is_flag=True, help="Print the template and every permission with its reason; make nothing.")
@click.option("--delete", is_flag=True, help="Take away what is empty, and say what is left.")
@click.option("--yes", is_flag=True, help="With --delete: do not ask.")
@place_options
@click.pass_context
def setup(context, kydb, read, bucket, subnets, security_groups, kms_key, dry_run, delete, yes, **options):
    """Make what an AWS account needs for jobs, once; a second run changes nothing.

    A role with the least that a job uses, a bucket, an image repository, the log group, a role for schedules and a
    policy for the launcher's users, from sagemaker/account.yaml by CloudFormation. Needs an administrator's
    credentials. Options that are not given keep what an earlier run had.
    """
    place = AwsPlace(options["runs"], options["region"])
    given = {
        "kydb": kydb, "read": read, "subnets": subnets, "security_groups": security_groups, "kms_key": kms_key,
    }  # fmt: skip
    if bool(subnets) != bool(security_groups):
        raise click.UsageError("--subnet and --security-group go together")
    if dry_run:
        _print_template(account_template(Access(**given)))
        return
    if delete:
        if not yes:
            click.confirm(f"Delete the roles in {place.region}, and the bucket and repository if empty?", abort=True)
        for line in setting_up.delete(place):
            say(line)
        return
    # The settings file's bucket is not an option that was given: a deployed stack knows its own.
    named = bucket if context.get_parameter_source("bucket") is click.core.ParameterSource.COMMANDLINE else None
    planned = setting_up.plan(place, given, named)
    for what in planned.kept:
        remark(f"{what} is there already and is used as it is")
    if planned.changes:
        remark("CloudFormation works on the stack; this takes a minute or two")
    found = setting_up.deploy(place, planned)
    _write_settings(context, place, found)
    say(f"{'set up' if planned.changes else 'nothing to change'}: stack position-trainer in {place.region}")
    print_table(["made", "name"], [[name, value] for name, value in found.items()])
    access = setting_up.deployed_access(place)
    if access.subnets:
        say("\nEndpoints that these subnets need, where they have no other way to AWS:")
        for line in endpoints(place.region, access):
            say(f"  {line}")


def _write_settings(context: click.Context, place: AwsPlace, found: dict[str, str]) -> None:
    values = {"role": found["Role"], "bucket": found["Bucket"], "region": place.region}
    image = setting_up.newest_image(place)
    path = settings_path(context)
    if setting_up.write_settings(path, values | ({"image": image} if image else {})):
        say(f"wrote {path}")
    if not image:
        say("no image is in the repository yet: make image, then: launch push")


def remember_image(context: click.Context, uri: str) -> None:
    """Writes a pushed image's URI into the settings file that is in use; none is made for it."""
    path = settings_path(context)
    if path.exists() and setting_up.write_settings(path, {"image": uri}):
        remark(f"wrote image: {uri} to {path}")


def settings_path(context: click.Context) -> Path:
    """The settings file that the launcher reads, or would read once it is there."""
    chosen = context.find_root().params.get("settings_file")
    return chosen or next((path for path in SETTINGS_FILES if path.is_file()), SETTINGS_FILES[0])


def _print_template(template: dict[str, Any]) -> None:
    """The template to standard output, so that it can be kept and deployed, and its permissions beside it."""
    click.echo(template_text(template).rstrip())
    for each in permissions(template):
        verb = "may" if each.effect == "Allow" else "forbids"
        remark(f"{each.policy} {verb} {', '.join(each.actions)} on {', '.join(each.resources)}: {each.reason}")


# doctor


@click.command()
@_request_on_aws
def doctor(request_file, as_json, **options):
    """Look whether the account can run a request, before an instance is paid for.

    One line for each thing: ok, wrong, or not known; what is wrong comes with the command or page that mends it.
    """
    findings = list(_findings(request_file, options))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            say(f"{finding.state}: {told(finding)}")
    # Where the credentials are not known, nothing could be looked at.
    sys.exit(findings[0].state != OK or any(finding.state == WRONG for finding in findings))


def _findings(request_file: Path, options: dict[str, Any]) -> Iterable[Finding]:
    request, place = _request_and_place(request_file, options)
    check(request, place.problems_with)
    return examined(place, request)


# schedule


class _Schedules(click.Group):
    """`schedule REQUEST --cron ...` makes one; `schedule list` and others look after them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["make", *args]
        ctx.default_map = dict.fromkeys(self.commands, ctx.default_map or {})
        return super().parse_args(ctx, args)


@click.group(cls=_Schedules)
def schedule():
    """Start a job each night, without a server: `schedule [REQUEST] --cron "0 2 * * *" [options of train]`.

    EventBridge Scheduler calls SageMaker itself. `schedule make --help` shows all options.
    """


@schedule.command("make")
@click.option(
    "--cron", required=True, metavar="FIELDS", help="When: five fields as cron has them, or EventBridge's six."
)
@click.option("--timezone", default="UTC", show_default=True, help="That --cron is meant in, such as Europe/Berlin.")
@click.option("--notify", default="", metavar="TOPIC_ARN", help="SNS topic that hears of failed nights.")
@_request_on_aws
def make_schedule(request_file, cron, timezone, notify, as_json, **options):
    """Make a schedule, or replace the one of the same --name.

    REQUEST_FILE is a CreateTrainingJob or CreateHyperParameterTuningJob request. Use `--set start_date=-3y` for
    prices that end today, and `--set publish_if=better` so that a bad night replaces no good model.
    """
    name = options["name"] or "position-trainer-nightly"  # `list --on aws` shows names with position-trainer in them
    request, place = _request_and_place(request_file, {**options, "name": name})
    held = schedules.scheduled(request, name)  # refuses files of this machine before the check does
    check(request, place.problems_with)
    line = schedules.put(place, name, request, cron, timezone=timezone, notify=notify)
    if as_json:
        print_json(held)
    else:
        say(line)


@schedule.command("list")
@json_option
@place_options
def list_schedules(as_json, **options):
    """List the schedules of this project."""
    found = list(schedules.listed(AwsPlace(options["runs"], options["region"])))
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "state", "when", "timezone"],
        [
            [each["Name"], each["State"], each["ScheduleExpression"], each.get("ScheduleExpressionTimezone", "UTC")]
            for each in found
        ],
    )


@schedule.command("pause")
@click.argument("name")
@click.option("--resume", is_flag=True, help="Let a paused schedule go on.")
@place_options
def pause_schedule(name, resume, **options):
    """Pause a schedule; --resume lets it go on."""
    schedules.set_state(AwsPlace(options["runs"], options["region"]), name, enabled=resume)
    say(f"the schedule {name} {'goes on' if resume else f'is paused; schedule pause --resume {name} lets it go on'}")


@schedule.command("delete")
@click.argument("name")
@place_options
def delete_schedule(name, **options):
    """Delete a schedule and its notices; the jobs that it started stay."""
    schedules.delete(AwsPlace(options["runs"], options["region"]), name)
    say(f"the schedule {name} is deleted")


# push, clean


@click.command()
@click.option("--image", default="position-trainer", show_default=True, help="Image on this machine.")
@click.option("--repository", default="position-trainer", show_default=True, help="ECR repository; made if missing.")
@json_option
@place_options
@click.pass_context
def push(context: click.Context, image: str, repository: str, as_json: bool, **options: Any) -> None:
    """Push the image to ECR, print the URI that --image takes, and keep it in the settings file that is in use.

    An image without a tag gets one from its content, so that what a job ran can be told for good.
    """
    refuse_wrong_platform(image)
    uri = AwsPlace(options["runs"], options["region"]).push(image, repository)
    remember_image(context, uri)
    if as_json:
        print_json({"TrainingImage": uri})
    else:
        say(uri)


@click.command()
@click.option("--older-than", "age", default="90d", show_default=True, metavar="SPAN", help="Such as 30d, 4w, 6m, 1y.")
@click.option("--on", "place_name", type=click.Choice(["local", "aws"]), default="local", show_default=True)
@click.option("--bucket", envvar="POSITION_TRAINER_BUCKET", help="With --on aws: the bucket that jobs left things in.")
@click.option("--delete", is_flag=True, help="Delete what is listed; without it nothing is deleted.")
@click.option("--yes", is_flag=True, help="With --delete: do not ask.")
@json_option
@place_options
def clean(age, place_name, bucket, delete, yes, as_json, **options):
    """List what jobs left that ended long ago, and delete it if asked to. Published models are kept.

    On this machine the folders of jobs in runs/; with --on aws the results, inputs and checkpoints in the bucket.
    """
    before = datetime.now(timezone.utc) - cleaning.span(age)
    published = cleaning.Published()
    if place_name == "aws":
        if not bucket:
            raise UserError("clean --on aws needs --bucket, or bucket: in position-trainer.yaml")
        aws = AwsPlace(options["runs"], options["region"])
        found = list(cleaning.in_bucket(aws, bucket, before, published))
    else:
        aws = None
        found = list(cleaning.on_this_machine(options["runs"].resolve(), before, published))
    if as_json:
        print_json([each._asdict() for each in found])
    else:
        print_table(
            ["what", "from", "bytes", "kept because"],
            [[each.where, f"{each.ended:%Y-%m-%d}", f"{each.size:,}", each.kept] for each in found],
        )
    gone = [each for each in found if not each.kept]
    if not delete:
        remark(
            f"{len(gone)} of {len(found)} may be deleted, {sum(each.size for each in gone):,} bytes: --delete does it"
        )
        return
    if gone and not yes:
        click.confirm(f"Delete {len(gone)} of them for good?", abort=True)
    for each in gone:
        cleaning.remove(aws, each)
    remark(f"{len(gone)} deleted, {sum(each.size for each in gone):,} bytes")
