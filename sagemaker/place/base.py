"""What a place is: the one interface that the commands use, whichever of the three places a job runs in."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from members import ALONE, Pack
from ml.errors import UserError
from request import FIRST_HOST

Record = dict[str, Any]  # what SageMaker's Describe call answers for a job
FINAL = ("Completed", "Failed", "Stopped")  # statuses of jobs that have ended


class NoSuchJob(UserError):
    """The place has no job of that name."""


class Upload(NamedTuple):
    """A file of this machine, the S3 URI that it goes to, and the KMS key that S3 encrypts it with."""

    path: Path
    uri: str
    kms_key: str = ""


class Listing(NamedTuple):
    """What a place has: its records, the newest first, and a sentence for each record that cannot be read."""

    training_jobs: list[Record]
    tuning_jobs: list[Record]
    damaged: list[str]


class Place(Protocol):
    """Starts jobs from requests, describes them, gives their logs, stops them and collects what they left."""

    name: str
    """For messages and records. What differs between places is below: nothing is decided by the name."""
    poll_seconds: float
    """Between two looks at a job."""
    interrupt_stops_job: bool
    """Whether Ctrl-C stops the job that is followed; otherwise it only ends the following."""
    has_sample_market: bool
    """Whether a request that names no prices may train on a simulated market."""
    own_search: bool
    """Whether a tuning job is searched by a process of this launcher, which keeps a log and the leaderboard's
    files, and remembers to which KYDB the winner goes. Otherwise SageMaker searches and keeps none of them."""
    image: str | None
    """The image that stands in where a request names only the placeholder."""

    def folder(self, name: str) -> Path:
        """Where a job's results are on this machine, once they were collected."""
        ...

    def prepare(self, request: Record) -> list[Upload]:
        """Points the request's files of this machine to where the job will read them; returns what to `upload`.

        Raises:
            UserError: there is no such file or folder, or it is empty.
        """
        ...

    def problems_with(self, request: Record) -> Iterator[str]:
        """What this place would refuse in a request that SageMaker's model and the common rules allow."""
        ...

    def examine(self, request: Record) -> None:
        """Looks, before anything is paid for, whether the place can run a checked request.

        Raises:
            WrongRequest: with what is wrong and what mends it.
        """
        ...

    def estimate(self, request: Record) -> str:
        """A line: what the request costs at most; empty where the place is free or its prices are not known."""
        ...

    def bill(self, record: Record) -> str:
        """A line: what an ended job cost; empty where the place is free."""
        ...

    def preflight(self, request: Record) -> list[str]:
        """Looks, before anything is uploaded, whether the name is free; returns what the user should know.

        Raises:
            UserError: the name is taken.
        """
        ...

    def upload(self, uploads: list[Upload]) -> None:
        """Brings the files that `prepare` named to where the job reads them."""
        ...

    def start(self, request: Record) -> str:
        """Starts a training job from a checked CreateTrainingJob request; returns its name.

        Raises:
            UserError: the name is taken, or a channel cannot be read.
        """
        ...

    def describe(self, name: str) -> Record:
        """A training job's record.

        Raises:
            NoSuchJob: there is none.
        """
        ...

    def lines(self, name: str, *, follow: bool, host: str = FIRST_HOST) -> Iterator[str]:
        """The lines of a training job's log on a host, or of a tuning job's where the place has its own search.

        Args:
            name: the job's.
            follow: whether to wait for further lines until the job ends.
            host: algo-1, algo-2, ...; of a training job.
        """
        ...

    def stop(self, name: str) -> None:
        """Asks a training job to end; it has two minutes to do so."""
        ...

    def collect(self, name: str) -> Path:
        """Brings what a job left into its folder here, as model/ and output/; returns the folder."""
        ...

    def records(self) -> Listing:
        """The training and tuning jobs of the place, the newest first; trials are not among them."""
        ...

    def start_tuning(self, request: Record, model_db: str, pack: Pack = ALONE) -> str:
        """Starts a tuning job from a checked CreateHyperParameterTuningJob request; returns its name.

        Args:
            request: the request.
            model_db: where `publish --best` publishes to; kept where the place has its own search.
            pack: how trials are trained together; in jobs of several only where the place has its own search.
        """
        ...

    def resume_tuning(self, name: str) -> None:
        """Goes on with a tuning job that was killed or stopped.

        Raises:
            UserError: there is none, it runs, it is complete, or the place cannot do that.
        """
        ...

    def describe_tuning(self, name: str) -> Record:
        """A tuning job's record.

        Raises:
            NoSuchJob: there is none.
        """
        ...

    def trials(self, name: str) -> list[Record]:
        """Summaries of a tuning job's trials, the oldest first; a running trial's objective is its latest."""
        ...

    def stop_tuning(self, name: str) -> None:
        """Asks a tuning job and its running trials to end."""
        ...


@dataclasses.dataclass(frozen=True)
class Job:
    """A training or tuning job in its place.

    Attributes:
        member: the number of the network that is meant, where the job trains a population and one was named.
    """

    place: Place
    name: str
    tuning: bool
    member: int | None = None

    @property
    def kind(self) -> str:
        return "tuning job" if self.tuning else "job"

    @property
    def folder(self) -> Path:
        return self.place.folder(self.name)

    def describe(self) -> Record:
        return (self.place.describe_tuning if self.tuning else self.place.describe)(self.name)

    def trials(self) -> list[Record]:
        return self.place.trials(self.name) if self.tuning else []

    def stop(self) -> None:
        (self.place.stop_tuning if self.tuning else self.place.stop)(self.name)


def status_of(record: Record) -> str:
    """The status in a training or tuning job's record."""
    tuning = "HyperParameterTuningJobStatus"
    return record[tuning] if tuning in record else record["TrainingJobStatus"]
