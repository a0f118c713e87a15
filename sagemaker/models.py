"""Where a model's files are: in a job's folder, in a folder, or in a model.tar.gz."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from archive import unpack
from members import member_name
from ml.deliver.results import read_job_record
from ml.errors import UserError
from ml.settings import SETTINGS, Settings
from place.base import Job
from place.outcome import read_metrics

ARCHIVE = "model.tar.gz"  # what SageMaker and the local modes of its SDKs make of model/


def path_of_model(text: str, runs: Path) -> Path | None:
    """The path that is meant where a command takes a job's name or a path; None: it is a name."""
    path = Path(text).expanduser()
    named = re.fullmatch("[a-zA-Z0-9-]+", text) and ((runs / text).exists() or not path.exists())
    return None if named else path


@contextlib.contextmanager
def model_files(path: Path) -> Iterator[Path]:
    """A folder with the files of a model.

    Args:
        path: that folder, one with `model/` or `model.tar.gz` in it, or such an archive.

    Raises:
        UserError: there is nothing, or no whole archive.
    """
    if path.is_dir():
        inside = path / "model"
        path = inside if inside.is_dir() else path / ARCHIVE if (path / ARCHIVE).is_file() else path
    if path.is_dir():
        yield path
    elif path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            unpack(path, Path(folder))
            yield Path(folder)
    else:
        raise UserError(f"there is no model at {path}: no folder and no {ARCHIVE}")


def collect_model(job: Job) -> Path:
    """The folder of a finished job, with its model in model/.

    Raises:
        UserError: a member of a population is meant, and the job kept another's model.
    """
    folder = job.place.collect(job.name)
    kept = read_metrics(folder / "model").get("member")
    if job.member is None or kept == job.member:
        return folder
    name = member_name(job.name, job.member)
    best = f", {member_name(job.name, kept)}, alone" if isinstance(kept, int) else " alone, once it ends"
    raise UserError(
        f"{name} has no model: {job.name} trained it with others and keeps the model of the best{best}; this trains "
        f"it by itself: python sagemaker/launch.py train --on {job.place.name} --member {name}"
    )


def find_h5_file(folder: Path, model_key: str) -> Path:
    """The .h5 file that a job left, named by its model key.

    Raises:
        UserError: there is none, or several.
    """
    named = folder / Settings(model_key=model_key).h5_name
    found = [named] if named.is_file() else sorted(folder.glob("*.h5"))
    if len(found) != 1:
        raise UserError(f"{folder} must have one .h5 file, found {', '.join(path.name for path in found) or 'none'}")
    return found[0]


def job_and_settings(folder: Path) -> tuple[str, dict[str, str]]:
    """A model's job and its settings as text, by its job.json; both empty where there is none.

    Raises:
        UserError: it is damaged, or of a later version.
    """
    with contextlib.suppress(FileNotFoundError):
        record = read_job_record(folder)
        texts = {
            name: str(value)
            for name, value in record["settings"].items()
            if name in SETTINGS and value not in (None, "")
        }
        return record["job"], texts
    return "", {}
