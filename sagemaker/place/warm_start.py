"""What a search differs in from an earlier one that it is to learn from, a sentence for each difference."""

import hashlib
from pathlib import Path
from typing import Any

from request import hyperparameters_of, objective_of, ranges_of, s3_sources, training_part

_SHOWN = 200  # characters of a value


def differing_settings(request: dict[str, Any], parent: dict[str, Any]) -> list[str]:
    """Differences in the image, the objective and the fixed hyperparameters.

    Args:
        request: a CreateHyperParameterTuningJob request.
        parent: the record of the earlier tuning job.
    """
    pairs = [
        (
            "the image",
            *(training_part(job).get("AlgorithmSpecification", {}).get("TrainingImage") for job in (request, parent)),
        ),
        ("the objective", *(_objective(job) for job in (request, parent))),
    ]
    mine, its = (dict(hyperparameters_of(job)) for job in (request, parent))
    tuned = {entry["Name"] for job in (request, parent) for _, entry in ranges_of(job)}
    for name in sorted((mine.keys() | its.keys()) - tuned):
        pairs.append((name, mine.get(name, "not set"), its.get(name, "not set")))
    return [f"{what} is {_short(own)} here and {_short(other)} there" for what, own, other in pairs if own != other]


def differing_channels(request: dict[str, Any], parent: dict[str, Any]) -> list[str]:
    """Differences in where the channels are read from."""
    mine, its = ({name: source["S3Uri"] for name, source in s3_sources(job).items()} for job in (request, parent))
    return [
        f"channel {name} is {mine.get(name, 'not there')} here and {its.get(name, 'not there')} there"
        for name in sorted(mine.keys() | its.keys())
        if mine.get(name) != its.get(name)
    ]


def differing_files(mine: Path, its: Path) -> list[str]:
    """Differences in the files of two searches' channels, each a folder of `mine` and `its`."""
    found = []
    for channel in sorted({path.name for folder in (mine, its) if folder.is_dir() for path in folder.iterdir()}):
        own, other = (_hashes(folder / channel) for folder in (mine, its))
        changed = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        if changed:
            found.append(
                f"the data of channel {channel} is another: {_short(', '.join(changed))} "
                f"({len(changed)} of {len(own.keys() | other.keys())} files)"
            )
    return found


def _image(job: dict[str, Any]) -> str:
    return str(training_part(job).get("AlgorithmSpecification", {}).get("TrainingImage"))


def _objective(job: dict[str, Any]) -> str:
    name, maximize = objective_of(job)
    return f"{'Maximize' if maximize else 'Minimize'} {name}"


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
