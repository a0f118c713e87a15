"""A place by its name, and the place that a job is in."""

import contextlib
from pathlib import Path

from botocore.exceptions import BotoCoreError

from ml.errors import UserError
from place.aws import AwsPlace
from place.base import Job, NoSuchJob, Place
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
    """The training or tuning job of that name.

    Args:
        name: the job's.
        runs: the folder of job folders.
        region: of AWS; None: the one configured.
        place_name: where it is; None: here if it is here, else on aws.

    Raises:
        UserError: there is none, or SageMaker cannot be asked.
    """
    here = JobFolders(runs)
    if place_name != "aws" and (here.has(name) or here.has_tuning(name)):
        tuning = here.has_tuning(name)
        record = here.describe_tuning(name) if tuning else here.describe(name)
        return Job(make_place_here(record.get("Place", "local"), runs), name, tuning)
    if place_name in ("local", "docker"):
        raise UserError(f"there is no job {name} in {runs}; `list` shows those there are")
    place = AwsPlace(runs, region)
    try:
        region = place.region
        with contextlib.suppress(NoSuchJob):
            place.describe(name)
            return Job(place, name, tuning=False)
        place.describe_tuning(name)
        return Job(place, name, tuning=True)
    except NoSuchJob:
        raise UserError(
            f"there is no job {name}, neither in {runs} nor on SageMaker in {region}; "
            "`list` and `list --on aws` show those there are"
        ) from None
    except (UserError, BotoCoreError) as error:
        if place_name:
            raise
        raise UserError(
            f"there is no job {name} in {runs}, where `list` shows those there are, and "
            f"SageMaker cannot be asked: {error}"
        ) from None
