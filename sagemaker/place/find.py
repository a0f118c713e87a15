"""A place by its name, and the place that a job is in."""

import contextlib
from pathlib import Path

from botocore.exceptions import BotoCoreError

from members import has_member, split_member_name
from ml.errors import UserError
from place.aws import AwsPlace
from place.base import Job, NoSuchJob, Place, Record
from place.docker import DockerPlace
from place.folders import JobFolders
from place.local import LocalPlace

PLACES = ("local", "docker", "aws")


def make_place(name: str, runs: Path, region: str | None = None, docker_network: str = "") -> Place:
    """The place called local, docker or aws.

    Args:
        name: its name.
        runs: the folder of job folders.
        region: of AWS; None: the one configured.
        docker_network: of containers; empty: docker's default.
    """
    return AwsPlace(runs, region) if name == "aws" else make_place_here(name, runs, docker_network)


def make_place_here(name: str, runs: Path, docker_network: str = "") -> LocalPlace:
    """The place called local or docker."""
    return DockerPlace(runs, docker_network) if name == "docker" else LocalPlace(runs)


def find_job(name: str, runs: Path, region: str | None = None, place_name: str | None = None) -> Job:
    """The training or tuning job of that name, or the one that trains the member of that name.

    Args:
        name: the job's, or a member's.
        runs: the folder of job folders.
        region: of AWS; None: the one configured.
        place_name: where it is; None: here if it is here, else on aws.

    Raises:
        UserError: there is none, or SageMaker cannot be asked.
    """
    if place_name != "aws" and (found := _find_here(name, runs)):
        return found
    if place_name in ("local", "docker"):
        raise UserError(f"there is no job {name} in {runs}; `list` shows those there are")
    place = AwsPlace(runs, region)
    try:
        region = place.region
        if found := _find_on_aws(name, place):
            return found
    except (UserError, BotoCoreError) as error:
        if place_name:
            raise
        raise UserError(
            f"there is no job {name} in {runs}, where `list` shows those there are, and "
            f"SageMaker cannot be asked: {error}"
        ) from None
    raise UserError(
        f"there is no job {name}, neither in {runs} nor on SageMaker in {region}; "
        "`list` and `list --on aws` show those there are"
    )


def _find_here(name: str, runs: Path) -> Job | None:
    here = JobFolders(runs)
    for job, member in ((name, None), split_member_name(name)):
        if here.has_tuning(job) and member is None:
            return Job(make_place_here(here.describe_tuning(job).get("Place", "local"), runs), job, tuning=True)
        if here.has(job):
            record = here.describe(job)
            if member is None or has_member(record.get("HyperParameters", {}), member):
                return Job(make_place_here(record.get("Place", "local"), runs), job, tuning=False, member=member)
    return None


def _find_on_aws(name: str, place: AwsPlace) -> Job | None:
    with contextlib.suppress(NoSuchJob):
        place.describe(name)
        return Job(place, name, tuning=False)
    with contextlib.suppress(NoSuchJob):
        place.describe_tuning(name)
        return Job(place, name, tuning=True)
    job, member = split_member_name(name)
    with contextlib.suppress(NoSuchJob):
        if member is not None and has_member(place.describe(job).get("HyperParameters", {}), member):
            return Job(place, job, tuning=False, member=member)
    return None


def job_of_trial(tuning: Job, trial: Record) -> Job:
    """The training job that trained a trial of a tuning job, or a member of its population."""
    return Job(tuning.place, trial.get("MemberOf", trial["TrainingJobName"]), tuning=False, member=trial.get("Member"))
