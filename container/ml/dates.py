"""Dates relative to the day of a job: `-3y`, `-90d`. A job that is started again keeps the day of its first start."""

import calendar
import json
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ml.errors import UserError
from ml.files import write_json
from ml.log import say

RELATIVE = re.compile(r"-(\d{1,5})([dwmy])")
_DAY_FILE = "first_day.json"


def relative_day(text: str, day: date) -> date | None:
    """The day that `-3y` (or `-6m`, `-2w`, `-90d`) means on a day; None where the text is no relative date.

    Months and years keep the day of the month where there is one, and end with the month elsewhere.

    Raises:
        ValueError: it would be before the year 1.
    """
    found = RELATIVE.fullmatch(text)
    if not found:
        return None
    count, unit = int(found[1]), found[2]
    try:
        if unit in "dw":
            return day - timedelta(days=count * (7 if unit == "w" else 1))
        months = 12 * day.year + day.month - 1 - count * (12 if unit == "y" else 1)
        year, month = months // 12, months % 12 + 1
        return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))
    except (OverflowError, ValueError, calendar.IllegalMonthError):
        raise ValueError("a date after the year 1") from None


def today() -> date:
    """The day that it is, in UTC."""
    return datetime.now(timezone.utc).date()


def day_of_job(hyperparameters: Mapping[str, Any], checkpoints: Path | None, job: str) -> date:
    """The day that a job's relative dates count from: that of its first start, which its checkpoints remember.

    Args:
        hyperparameters: as SageMaker gives them; without a relative date nothing is remembered.
        checkpoints: the job's checkpoint folder; None: a job that is started again begins anew.
        job: its name.

    Raises:
        UserError: what was remembered cannot be read.
    """
    relative = any(
        RELATIVE.fullmatch(str(hyperparameters.get(name, "")).strip(' "')) for name in ("start_date", "end_date")
    )
    if checkpoints is None or not relative:
        return today()
    path = checkpoints / job / _DAY_FILE
    try:
        return date.fromisoformat(json.loads(path.read_text(encoding="utf-8"))["day"])
    except FileNotFoundError:
        day = today()
        try:
            write_json(path, {"day": day.isoformat()})
        except OSError as error:  # as with checkpoints: told, and no reason to end the job
            say(f"{path} cannot be written ({error}): started again on another day, the job counts from that day")
        return day
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}, which holds the day that start_date and end_date count from, cannot be read: {error}; write "
            '{"day": "YYYY-MM-DD"} into it, or remove the checkpoints to begin anew'
        ) from None
