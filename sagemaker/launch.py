"""Starts, follows and tunes training jobs, on this machine or on SageMaker.

python sagemaker/launch.py train                                     # a simulated market, on this machine
python sagemaker/launch.py check prices.csv                          # what a job would understand of it
python sagemaker/launch.py train --prices prices.parquet --set epochs=20
python sagemaker/launch.py train --on aws --prices s3://BUCKET/prices/ --spot
python sagemaker/launch.py tune --on docker --max-parallel 2
python sagemaker/launch.py COMMAND --help
"""

import functools
import json
import signal
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load ends the program without a traceback

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

import click

from account.commands import add_commands
from build import build_training_request, build_tuning_request
from check_prices import check_local_prices, local_prices
from console import drop_unwritten_output, out, prepare_output, print_failure, print_json, print_table, remark, say
from error_lines import MENDABLE, line_and_code
from follow import follow, follow_to_summary, leaderboard_view, log_view
from ml import __version__
from ml.errors import UserError, redacted
from models import path_of_model
from options import (
    RUNS,
    SETTINGS_FILES,
    PricesCommand,
    json_option,
    name_argument,
    on_option,
    place_of,
    place_options,
    read_settings_file,
    refuse_contrary_packs,
    refuse_options_beside_resume,
    refuse_request_beside_member,
    request_argument,
    request_options,
)
from place.base import FINAL, Job, Place, status_of
from place.find import PLACES, find_job, job_of_trial
from place.outcome import read_metrics
from populations import pack_problems, train_together
from predict import predict
from price_commands import add_price_commands
from publish import find_best_trial, publish_model, publish_path
from request import FIRST_HOST, host_names, name_of, refuse_unknown_host
from results import print_training_job, print_trial, print_tuning_job, print_verdicts, write_members
from rules import Rule, WrongRequest, check
from yaml_files import as_yaml

_SHOWN_PROBLEMS = 50


class _Commands(click.Group):
    """The program's boundary: every exception becomes a line and an exit code. The order of commands is a user's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # here, where a full disk or a reader that went away can still be told
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except WrongRequest as error:
            count = len(error.problems)
            remark(f"the request has {count} problem{'s' * (count > 1)}, nothing was started:", style="bold red")
            for problem in error.problems[:_SHOWN_PROBLEMS]:
                remark(f"  {problem}")
            if count > _SHOWN_PROBLEMS:
                remark(f"  and {count - _SHOWN_PROBLEMS} more")
            return ctx.exit(MENDABLE)
        except (Exception, KeyboardInterrupt) as error:
            line, code = line_and_code(error, ctx.meta.get(RUNS, ()))
            if line:
                remark(line)
            drop_unwritten_output()
            return ctx.exit(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--settings-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="POSITION_TRAINER_SETTINGS",
    help="YAML with defaults for options: role, image, bucket, region, runs.  "
    "[default: position-trainer.yaml here, or in ~/.config]",
)
@click.version_option(__version__, prog_name="position-trainer")
@click.pass_context
def main(context: click.Context, settings_file: Path | None) -> None:
    """Train and tune position models: the same request as a process here, as a container, or on SageMaker."""
    path = settings_file or next((path for path in SETTINGS_FILES if path.is_file()), None)
    if path:
        values = read_settings_file(path)
        context.default_map = dict.fromkeys(main.commands, values)
        # `push` takes a local image, so it ignores `image:` in the settings file.
        context.default_map["push"] = {name: value for name, value in values.items() if name != "image"}


@main.command(cls=PricesCommand)
@request_argument("training_job.yaml")
@click.option("--member", metavar="NAME", help="Train a member of a population by itself, as its job's request says.")
@request_options
def train(request_file: Path, **options: Any) -> None:
    """Run one training job and follow it.

    REQUEST_FILE is a CreateTrainingJob request [default: sagemaker/training_job.yaml]. With no prices named,
    a place on this machine trains on a simulated market. Ctrl-C stops a job on this machine cleanly, and
    leaves a job on SageMaker running.
    """
    refuse_request_beside_member(options["member"])
    place = place_of(options)
    request = build_training_request(request_file, options, place)
    if _check_and_upload(request, place, options):
        job = Job(place, place.start(request), tuning=False)
        if len(hosts := host_names(request)) > 1:
            remark(f"{len(hosts)} hosts: the log is {hosts[0]}'s; another's: logs {job.name} --host {hosts[-1]}")
        _go_on_with(job, options)


@main.command(cls=PricesCommand)
@request_argument("tuning_job.yaml")
@click.option("--resume", metavar="NAME", help="Go on with a tuning job of this machine that was killed or stopped.")
@click.option("--max-jobs", type=int, help="Trials in all.")
@click.option("--max-parallel", type=int, help="Trials at a time; on this machine they share the cores.")
@click.option("--pack", type=click.IntRange(1, 1024), default=1, metavar="N", help="Train N trials at once in one job.")
@click.option(
    "--in-one-job", is_flag=True, help="No search: train all points at once in one job, one instance's start."
)
@click.option("--strategy", metavar="NAME", help="Bayesian, Random, Hyperband or Grid.")
@click.option(
    "--warm-start", "parents", multiple=True, metavar="NAME", help="Learn from an earlier tuning job. Repeatable."
)
@click.option(
    "--warm-start-type",
    type=click.Choice(["IdenticalDataAndAlgorithm", "TransferLearning"]),
    help="TransferLearning where data, image or settings differ.  [default: IdenticalDataAndAlgorithm]",
)
@request_options
def tune(request_file: Path, resume: str | None, **options: Any) -> None:
    """Search for the hyperparameters with the best objective.

    REQUEST_FILE is a CreateHyperParameterTuningJob request [default: sagemaker/tuning_job.yaml]. On aws
    SageMaker searches; elsewhere the launcher does, by the same rules. Trials publish nothing: `publish --best
    NAME` publishes the winner. The leaderboard, a CSV file and a page are in runs/NAME.
    """
    refuse_contrary_packs(options)
    place = place_of(options)
    if resume:
        refuse_options_beside_resume()
        place.resume_tuning(resume)
        _go_on_with(Job(place, resume, tuning=True), options)
        return
    request, model_db = build_tuning_request(request_file, options, place)
    in_one_job = options["in_one_job"]
    request, pack = train_together(request, options["pack"], in_one_job=in_one_job)
    problems = functools.partial(pack_problems, pack=pack, own_search=place.own_search)
    if not _check_and_upload(request, place, options, problems):
        return
    if model_db and (in_one_job or not place.own_search):
        remark(f"trials publish nothing; `publish --best {name_of(request)} --model-db {redacted(model_db)}` does")
    if in_one_job:
        _go_on_with(Job(place, place.start(request), tuning=False), options)
    else:
        _go_on_with(Job(place, place.start_tuning(request, model_db, pack), tuning=True), options)


def _check_and_upload(request: dict[str, Any], place: Place, options: dict[str, Any], *rules: Rule) -> bool:
    """Whether a request is to be started: not for --dry-run, which prints it; `rules` are the command's own.

    Raises:
        WrongRequest: it would be refused.
        UserError: its prices would be.
    """
    prices = local_prices(request)
    uploads = place.prepare(request)
    check(request, place.problems_with, *rules)
    if not options["no_check"]:
        check_local_prices(request, prices)
    if options["dry_run"]:
        click.echo(json.dumps(request, indent=1, default=str) if options["as_json"] else as_yaml(request))
        return False
    for line in place.preflight(request):
        remark(line)
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
    job = find_job(name, options["runs"], options["region"], options["place_name"])
    if job.member is not None:
        remark(f"{name} is a member of {job.name}, which trained it at once with others")
    return job


@main.command()
@name_argument
@click.option("--collect", is_flag=True, help="Bring what a job on aws left into runs/NAME.")
@on_option
@json_option
@place_options
def status(name: str, collect: bool, as_json: bool, **options: Any) -> None:
    """Show how a training or tuning job stands."""
    job = _find_job(name, options)
    record = job.describe()
    if not job.tuning:
        if collect:
            job.place.collect(job.name)
            write_members(job, record)
        print_training_job(job, record, as_json=as_json, verdicts=True)
        return
    print_tuning_job(job, record, job.trials(), as_json=as_json)
    if "FailureReason" in record and not as_json:
        print_failure(record)


@main.command()
@name_argument
@click.option("--no-follow", is_flag=True, help="Print what there is and end.")
@click.option("--host", default=FIRST_HOST, show_default=True, help="Of a job on several hosts: whose log.")
@on_option
@place_options
def logs(name: str, no_follow: bool, host: str, **options: Any) -> None:
    """Print a job's log and follow it to its end; Ctrl-C leaves the job alone."""
    job = _find_job(name, options)
    if host != FIRST_HOST:
        if job.tuning:
            raise UserError(f"{name} is a tuning job; --host is for a training job, such as one of its trials")
        refuse_unknown_host(job.describe(), host)
    if job.tuning and not job.place.own_search:  # which keeps no log
        if no_follow:
            print_tuning_job(job, job.describe(), job.trials(), as_json=False)
        else:
            follow(job, leaderboard_view(job, out), interrupt_stops_job=False)
    else:
        follow(job, log_view(job, out, to_end=not no_follow, host=host), interrupt_stops_job=False)
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
    if job.member is not None:
        raise UserError(f"{name} is a member of {job.name}, whose networks train together; stop {job.name} stops them")
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
    """Show the best trial of a tuning job, or the best member of a population, and its settings."""
    job = _find_job(name, options)
    trial = find_best_trial(job)
    if as_json:
        print_json(trial)
    else:
        print_trial(job, trial)


@main.command()
@name_argument
@click.option("--best", "of_tuning", is_flag=True, help="NAME is a tuning job or a population: publish its best.")
@click.option("--model-db", metavar="URL", help="KYDB URL.  [default: the job's model_db]")
@click.option("--model-key", metavar="KEY", help="KYDB key.  [default: the job's model_key]")
@click.option("--replace-lookback", is_flag=True, help="Publish over a model that takes another number of prices, too.")
@on_option
@json_option
@place_options
def publish(
    name: str,
    of_tuning: bool,
    model_db: str | None,
    model_key: str | None,
    replace_lookback: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Publish a finished job's model to KYDB: after network isolation, or a tuning job's winner.

    NAME may also be a folder with a model's files or a model.tar.gz, such as an SDK's local mode leaves.
    """
    if path := path_of_model(name, options["runs"]):
        published = publish_path(path, model_db, model_key, replace_lookback=replace_lookback)
        if as_json:
            print_json(published)
        else:
            say("published {File} to {ModelDb} {ModelKey}".format_map(published))
        return
    job = _find_job(name, options)
    if of_tuning:
        trial = find_best_trial(job)
        model_db = model_db or job.describe().get("ModelDb", "")
        job = job_of_trial(job, trial)
    elif job.tuning:
        raise UserError(f"{name} is a tuning job; publish --best {name} publishes its best trial")
    published, folder = publish_model(job, model_db, model_key, replace_lookback=replace_lookback)
    if as_json:
        print_json(published)
    else:
        print_verdicts(read_metrics(folder / "model"))
        say("published {File} to {ModelDb} {ModelKey}".format_map(published))


main.add_command(predict)


add_price_commands(main)
add_commands(main)

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # and is not ignored, as in a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare_output()
    main()
