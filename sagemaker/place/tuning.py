"""Tuning jobs on this machine: started, resumed and stopped. A `search` process owns each; it is in search.py."""

import abc
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from console import remark
from members import ALONE, Pack
from ml.errors import UserError
from place import inputs, staging, warm_start
from place.base import FINAL
from place.folders import POLL_SECONDS, JobFolders
from place.record import TUNING_LOG, TUNING_RECORD, DamagedRecord, now, take_lock, write_record
from request import s3_sources

_EXIT_SECONDS = 10
_SEARCH = Path(__file__).resolve().parents[1] / "search.py"


class TuningFolders(JobFolders, abc.ABC):
    """The tuning jobs of a place on this machine."""

    name: str
    own_search = True
    poll_seconds = 0.5
    network = ""  # of containers

    @abc.abstractmethod
    def stop(self, name: str) -> None:
        """Asks a training job to end."""

    def start_tuning(self, request: dict[str, Any], model_db: str, pack: Pack = ALONE) -> str:
        """Starts a tuning job and returns its name.

        Args:
            request: a checked CreateHyperParameterTuningJob request.
            model_db: where `publish --best` publishes to; trials publish nothing.
            pack: how trials are trained together.

        Raises:
            UserError: the name is taken, a channel cannot be read, or a job to learn from is not here.
        """
        name = request["HyperParameterTuningJobName"]
        with staging.staged(self.runs, name) as start:
            self._refuse_names_of_others(name)
            for channel, source in s3_sources(request).items():  # once, so that all trials read the same
                inputs.bring_channel(source["S3Uri"], start.folder / "input" / channel, read_only=True)
                source["S3Uri"] = (start.final / "input" / channel).as_uri()
            self._compare_with_parents(request, start.folder)
            seed = request["HyperParameterTuningJobConfig"].get("RandomSeed", random.SystemRandom().randrange(2**31))
            record = {
                **request,
                "HyperParameterTuningJobStatus": "InProgress",
                "CreationTime": now(),
                "Place": self.name,
                "RandomSeed": seed,
                "SearchId": uuid.uuid4().hex,
                "ModelDb": model_db,
                "Pack": pack.size,
                "Halving": pack.halving,
                "DockerNetwork": self.network,
            }
            write_record(start.folder / TUNING_RECORD, record)
            with staging.interrupts_delayed() as interrupted:
                start.commit()
                spawn(_SEARCH, start.folder, start.lock, start.folder / TUNING_LOG, {})
                start.hand_over()
        if interrupted:
            self.stop_tuning(name)
            raise KeyboardInterrupt
        return name

    def _refuse_names_of_others(self, name: str) -> None:
        """Refuses a search whose trials would be called as jobs are that are here already."""
        own = re.compile(re.escape(name) + r"-\d+(-\d+)?")  # the second number is a member's
        taken = [path for path in self.runs.glob(f"{name}-*") if own.fullmatch(path.name)]
        if taken:
            raise UserError(
                f"there is a job {min(taken).name} already, in {min(taken)}, and the trials of {name} would have "
                "such names; choose another --name"
            )

    def _compare_with_parents(self, request: dict[str, Any], folder: Path) -> None:
        """Tells what a search differs in from those that it learns from.

        Raises:
            UserError: a parent is not here, or it differs and WarmStartType says that it does not.
        """
        config = request.get("WarmStartConfig", {})
        for entry in config.get("ParentHyperParameterTuningJobs", []):
            parent = entry["HyperParameterTuningJobName"]
            record = self.describe_tuning(parent)
            differences = [
                *warm_start.differing_settings(request, record),
                *warm_start.differing_files(folder / "input", self.folder(parent) / "input"),
            ]
            if differences and config.get("WarmStartType") == "IdenticalDataAndAlgorithm":
                raise UserError(
                    f"{parent} differs from this search, so it cannot teach it as IdenticalDataAndAlgorithm: "
                    f"{'; '.join(differences)}. With --warm-start-type TransferLearning it can"
                )
            for difference in differences:
                remark(f"warm start from {parent}: {difference}")

    def resume_tuning(self, name: str) -> None:
        """Goes on with a tuning job that was killed, stopped or not yet started.

        Raises:
            UserError: there is none, it runs, or it is complete.
        """
        record = self.describe_tuning(name)
        deadline = time.monotonic() + _EXIT_SECONDS
        while (
            (lock := take_lock(self.folder(name))) is None
            and record["HyperParameterTuningJobStatus"] in FINAL
            and time.monotonic() < deadline
        ):  # it has written its last word and is about to exit
            time.sleep(POLL_SECONDS)
        if lock is None:
            raise UserError(f"the tuning job {name} is running; `logs {name}` follows it")
        if record["HyperParameterTuningJobStatus"] == "Completed":
            raise UserError(f"the tuning job {name} is Completed; `best {name}` shows what it found")
        for key in ("HyperParameterTuningEndTime", "FailureReason", "SearchPid"):
            record.pop(key, None)
        write_record(self.folder(name) / TUNING_RECORD, record | {"HyperParameterTuningJobStatus": "InProgress"})
        spawn(_SEARCH, self.folder(name), lock, self.folder(name) / TUNING_LOG, {})
        os.close(lock)

    def stop_tuning(self, name: str) -> None:
        """Asks a tuning job and its running trials to end, also those that a killed search left behind."""
        record = self.describe_tuning(name)
        while record["HyperParameterTuningJobStatus"] == "InProgress" and "SearchPid" not in record:
            time.sleep(POLL_SECONDS)
            record = self.describe_tuning(name)
        if record["HyperParameterTuningJobStatus"] not in FINAL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record["SearchPid"], signal.SIGTERM)
            return
        for trial in self.trials(name):
            with contextlib.suppress(DamagedRecord):
                self.stop(trial["TrainingJobName"])


def spawn(program: Path, folder: Path, lock: int, log: Path, variables: dict[str, str]) -> None:
    """Starts the process that owns a job's folder, in a session of its own, and hands it the lock."""
    with log.open("ab") as output:
        subprocess.Popen(
            [sys.executable, program, folder, str(lock)],
            pass_fds=[lock],
            start_new_session=True,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
