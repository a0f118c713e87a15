"""Starts, follows and tunes training jobs, on this machine or on SageMaker.

python sagemaker/launch.py train                                     # a simulated market, on this machine
python sagemaker/launch.py train --prices prices.parquet --set epochs=20
python sagemaker/launch.py train --on aws --prices s3://BUCKET/prices/ --spot
python sagemaker/launch.py tune --on docker --max-parallel 2
python sagemaker/launch.py COMMAND --help
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

import click
import yaml
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from account.commands import add_commands, remember_image
from build import build_training_request, build_tuning_request
from console import out, print_failure, print_json, print_table, remark, say
from follow import follow, follow_to_summary, leaderboard_view, log_view
from ml.errors import UserError
from options import (
    SETTINGS_FILES,
    json_option,
    name_argument,
    on_option,
    place_of,
    place_options,
    read_settings_file,
    refuse_options_beside_resume,
    request_argument,
    request_options,
)
from place.aws import AwsPlace
from place.base import FINAL, Job, Place, status_of
from place.find import PLACES, find_job
from publish import find_best_trial, publish_model
from results import print_training_job, print_trial, print_tuning_job, print_verdicts, read_metrics
from rules import WrongRequest, check


class _Commands(click.Group):
    """Errors that a user can mend are one line each and exit code 1; the order of commands is a user's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WrongRequest as error:
            count = len(error.problems)
            remark(f"the request has {count} problem{'s' * (count > 1)}, nothing was started:", style="bold red")
            for problem in error.problems:
                remark(f"  {problem}")
        except NoCredentialsError:
            remark("error: no AWS credentials were found; run `aws configure`, or set AWS_PROFILE")
        except (UserError, BotoCoreError, ClientError, OSError) as error:
            remark(f"error: {error}")
        return ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--settings-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="POSITION_TRAINER_SETTINGS",
    help="YAML with defaults for options: role, image, bucket, region, runs.  "
    "[default: position-trainer.yaml here, or in ~/.config]",
)
@click.pass_context
def main(context: click.Context, settings_file: Path | None) -> None:
    """Train and tune position models: the same request as a process here, as a container, or on SageMaker."""
    path = settings_file or next((path for path in SETTINGS_FILES if path.is_file()), None)
    if path:
        values = read_settings_file(path)
        context.default_map = dict.fromkeys(main.commands, values)
        # `push` takes a local image, so it ignores `image:` in the settings file.
        context.default_map["push"] = {name: value for name, value in values.items() if name != "image"}


@main.command()
@request_argument("training_job.yaml")
@request_options
def train(request_file: Path, **options: Any) -> None:
    """Run one training job and follow it.

    REQUEST_FILE is a CreateTrainingJob request [default: sagemaker/training_job.yaml]. With no prices named,
    a place on this machine trains on a simulated market. Ctrl-C stops a job on this machine cleanly, and
    leaves a job on SageMaker running.
    """
    place = place_of(options)
    request = build_training_request(request_file, options, place)
    if _check_and_upload(request, place, options):
        _go_on_with(Job(place, place.start(request), tuning=False), options)


@main.command()
@request_argument("tuning_job.yaml")
@click.option("--resume", metavar="NAME", help="Go on with a tuning job of this machine that was killed or stopped.")
@click.option("--max-jobs", type=int, help="Trials in all.")
@click.option("--max-parallel", type=int, help="Trials at a time; on this machine they share the cores.")
@click.option("--strategy", metavar="NAME", help="Bayesian, Random, Hyperband or Grid.")
@click.option(
    "--warm-start", "parents", multiple=True, metavar="NAME", help="Learn from an earlier tuning job. Repeatable."
)
@request_options
def tune(request_file: Path, resume: str | None, **options: Any) -> None:
    """Search for the hyperparameters with the best objective.

    REQUEST_FILE is a CreateHyperParameterTuningJob request [default: sagemaker/tuning_job.yaml]. On aws
    SageMaker searches; elsewhere the launcher does, by the same rules. Trials publish nothing: `publish --best
    NAME` publishes the winner. The leaderboard, a CSV file and a page are in runs/NAME.
    """
    place = place_of(options)
    if resume:
        refuse_options_beside_resume()
        place.resume_tuning(resume)
        _go_on_with(Job(place, resume, tuning=True), options)
        return
    request, model_db = build_tuning_request(request_file, options, place)
    if not _check_and_upload(request, place, options):
        return
    if model_db and not place.own_search:
        remark("trials publish nothing; `publish --best NAME --model-db URL` publishes the winner")
    _go_on_with(Job(place, place.start_tuning(request, model_db), tuning=True), options)


def _check_and_upload(request: dict[str, Any], place: Place, options: dict[str, Any]) -> bool:
    """Whether a request is to be started: not for --dry-run, which prints it.

    Raises:
        WrongRequest: it would be refused.
    """
    uploads = place.prepare(request)
    check(request, place.problems_with)
    if options["dry_run"]:
        click.echo(
            json.dumps(request, indent=1, default=str)
            if options["as_json"]
            else yaml.safe_dump(request, sort_keys=False, allow_unicode=True).rstrip()
        )
        return False
    if not options["no_doctor"]:
        place.examine(request)
    if estimate := place.estimate(request):
        remark(estimate)
    place.upload(uploads)
    return True


def _go_on_with(job: Job, options: dict[str, Any]) -> None:
    """Follows a job that was just started, or only says that it was for --detach."""
    if not options["detach"]:
        sys.exit(follow_to_summary(job, as_json=options["as_json"]))
    if options["as_json"]:
        print_json(job.describe())
    else:
        say(f"{job.name} was started; follow it with: python sagemaker/launch.py logs {job.name}")


def _find_job(name: str, options: dict[str, Any]) -> Job:
    return find_job(name, options["runs"], options["region"], options["place_name"])


@main.command()
@name_argument
@click.option("--collect", is_flag=True, help="Bring what a job on aws left into runs/NAME.")
@on_option
@json_option
@place_options
def status(name: str, collect: bool, as_json: bool, **options: Any) -> None:
    """Show how a training or tuning job stands."""
    job = _find_job(name, options)
    if collect and not job.tuning:
        job.place.collect(name)
    record = job.describe()
    if not job.tuning:
        print_training_job(job, record, as_json=as_json, verdicts=True)
        return
    print_tuning_job(job, record, job.trials(), as_json=as_json)
    if "FailureReason" in record and not as_json:
        print_failure(record)


@main.command()
@name_argument
@click.option("--no-follow", is_flag=True, help="Print what there is and end.")
@on_option
@place_options
def logs(name: str, no_follow: bool, **options: Any) -> None:
    """Print a job's log and follow it to its end; Ctrl-C leaves the job alone."""
    job = _find_job(name, options)
    if job.tuning and not job.place.own_search:  # which keeps no log
        if no_follow:
            print_tuning_job(job, job.describe(), job.trials(), as_json=False)
        else:
            follow(job, leaderboard_view(job, out), interrupt_stops_job=False)
    else:
        follow(job, log_view(job, out, to_end=not no_follow), interrupt_stops_job=False)
    record = job.describe()
    if status_of(record) == "Failed":
        print_failure(record)
        sys.exit(1)


@main.command()
@name_argument
@on_option
@place_options
def stop(name: str, **options: Any) -> None:
    """Ask a training or tuning job to end; a training job keeps the best model so far."""
    job = _find_job(name, options)
    ended = status_of(job.describe())
    if ended in FINAL and not any(status_of(trial) not in FINAL for trial in job.trials()):
        say(f"{name} has ended already: {ended}")
        return
    job.stop()
    say(f"{name} was asked to stop; python sagemaker/launch.py status {name}")


@main.command("list")
@click.option(
    "--on",
    "place_name",
    type=click.Choice(PLACES),
    default="local",
    help="local and docker both show this machine's jobs.  [default: local]",
)
@json_option
@place_options
def list_(as_json: bool, **options: Any) -> None:
    """List training and tuning jobs, the newest first; trials are in their tuning job's status."""
    jobs, tunings, damaged = place_of(options).records()
    for problem in damaged:
        remark(problem)
    if as_json:
        print_json({"TrainingJobSummaries": jobs, "HyperParameterTuningJobSummaries": tunings})
        return
    rows = [
        (str(job["CreationTime"]), kind, str(job[key]), status_of(job))
        for kind, key, found in (
            ("train", "TrainingJobName", jobs),
            ("tune", "HyperParameterTuningJobName", tunings),
        )
        for job in found
    ]
    print_table(
        ["kind", "name", "status", "created"],
        [
            [kind, name, status, created[:19].replace("T", " ")]
            for created, kind, name, status in sorted(rows, reverse=True)
        ],
    )


@main.command()
@name_argument
@on_option
@json_option
@place_options
def best(name: str, as_json: bool, **options: Any) -> None:
    """Show a tuning job's best trial and its settings."""
    job = _find_job(name, options)
    trial = find_best_trial(job)
    if as_json:
        print_json(trial)
    else:
        print_trial(job, trial)


@main.command()
@name_argument
@click.option("--best", "of_tuning", is_flag=True, help="NAME is a tuning job: publish its best trial.")
@click.option("--model-db", metavar="URL", help="KYDB URL.  [default: the job's model_db]")
@click.option("--model-key", metavar="KEY", help="KYDB key.  [default: the job's model_key]")
@on_option
@json_option
@place_options
def publish(
    name: str, of_tuning: bool, model_db: str | None, model_key: str | None, as_json: bool, **options: Any
) -> None:
    """Publish a finished job's model to KYDB: after network isolation, or a tuning job's winner."""
    job = _find_job(name, options)
    if of_tuning:
        trial = find_best_trial(job)
        model_db = model_db or job.describe().get("ModelDb", "")
        job = Job(job.place, trial["TrainingJobName"], tuning=False)
    elif job.tuning:
        raise UserError(f"{name} is a tuning job; publish --best {name} publishes its best trial")
    published, folder = publish_model(job, model_db, model_key)
    if as_json:
        print_json(published)
    else:
        print_verdicts(read_metrics(folder))
        say("published {File} to {ModelDb} {ModelKey}".format_map(published))


@main.command()
@click.option("--image", default="position-trainer", show_default=True, help="Image on this machine.")
@click.option("--repository", default="position-trainer", show_default=True, help="ECR repository; made if missing.")
@json_option
@place_options
@click.pass_context
def push(context: click.Context, image: str, repository: str, as_json: bool, **options: Any) -> None:
    """Push the image to ECR, print the URI that --image takes, and keep it in the settings file that is in use.

    An image without a tag gets one from its content, so that what a job ran can be told for good.
    """
    uri = AwsPlace(options["runs"], options["region"]).push(image, repository)
    remember_image(context, uri)
    if as_json:
        print_json({"TrainingImage": uri})
    else:
        say(uri)


add_commands(main)

if __name__ == "__main__":
    main()
