"""Positions by a trained model over prices: in a process of its own, with TensorFlow, which the launcher does without.

A job's model is asked by its SavedModel, which scales the prices itself, as it serves; one from KYDB is an .h5 file,
and the training's own arithmetic scales for it.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from console import print_json, say
from ml.errors import UserError
from ml.hyperparameters import parse_value
from models import collect_model, job_and_settings, model_files, path_of_model
from options import PricesCommand, json_option, name_argument, on_option, parse_pairs, place_options
from place.find import find_job

_PROGRAM = Path(__file__).resolve().with_name("predicting.py")
_NEEDED = ("tensorflow", "keras", "pandas", "pyarrow", "kydb")
_OF_THE_TRAINING = ("start_date", "end_date", "preset")  # what says nothing of how prices are read later


@click.command(cls=PricesCommand)
@name_argument
@click.option("--prices", multiple=True, metavar="PATH...", help="Files with prices, or a folder of them. Repeatable.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    callback=parse_pairs,
    metavar="NAME=VALUE",
    help="A setting for reading prices, such as prices_db. Repeatable.  [default: the job's]",
)
@click.option("--model-db", metavar="URL", help="NAME is a KYDB key of this database.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: positions.parquet, if it is new]"
)
@on_option
@json_option
@place_options
def predict(
    name: str,
    prices: tuple[str, ...],
    settings: dict[str, str],
    model_db: str | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the positions that a model takes over prices, and print the last bar's.

    NAME is a job, a folder with a model's files, a model.tar.gz, or with --model-db a key of KYDB.
    """
    target = out or Path("positions.parquet")
    if out is None and target.exists():
        raise UserError(f"{target} is there already; --out {target} replaces it")
    path = None if model_db else path_of_model(name, options["runs"])
    if model_db is None and path is None:
        job = find_job(name, options["runs"], options["region"], options["place_name"])
        if job.tuning:
            raise UserError(f"{name} is a tuning job; `best {name}` shows the trial to name")
        path = collect_model(job) / "model"
    with contextlib.nullcontext() if path is None else model_files(path) as folder:
        own = job_and_settings(folder)[1] if folder else {}
        said = ask_model(
            folder=folder,
            model=(model_db, name) if model_db else None,
            prices=list(prices),
            settings=reading_settings(own, settings, from_files=bool(prices)),
            out=target,
        )
    if as_json:
        print_json(said)
    else:
        side = "long" if said["Position"] > 0 else "short"
        say(f"{said['Time']}: {side} ({said['Position']:+d}), probability of buy {said['Probability']:.4f}")
        say(f"positions: {said['Positions']} ({said['Rows']:,} bars)")


def ask_model(
    *, folder: Path | None, model: tuple[str, str] | None, prices: list[str], settings: dict[str, str], out: Path
) -> dict[str, Any]:
    """Writes the positions over a price history.

    Args:
        folder: of the model's files; None: `model` says where it is.
        model: KYDB URL and key of an .h5 file.
        prices: files or folders; none: KYDB, as `settings` say.
        settings: for reading prices, `reading_settings`'s.
        out: the Parquet file to write.

    Returns:
        The last bar, in the words of `predict --json`.

    Raises:
        UserError: the packages are not installed, or the model or the prices cannot be read or do not fit.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"predict needs {', '.join(missing)}, which the launcher does without: pip install -r requirements.txt"
        )
    question = {
        "folder": folder and str(folder.resolve()),
        "model": model,
        "prices": prices,
        "settings": settings,
        "out": str(out),
    }
    done = subprocess.run(
        [sys.executable, _PROGRAM, json.dumps(question)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    lines = done.stdout.splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it left no word"])[-1]
        raise UserError(f"the process that predicts ended with code {done.returncode}: {last}") from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def reading_settings(job: dict[str, str], given: dict[str, str], *, from_files: bool) -> dict[str, str]:
    """The settings that say how prices are read: the job's, but for its dates, and those that were given."""
    settings = {name: value for name, value in job.items() if name not in _OF_THE_TRAINING} | given
    if from_files:
        settings.pop("prices_db", None)
    elif not parse_value("prices_db", settings.get("prices_db", "")):
        raise UserError("there are no prices; give --prices FILE or --set prices_db=URL")
    return settings
