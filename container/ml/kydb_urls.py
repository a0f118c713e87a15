"""Which KYDB URLs a job may be given: of an allowed kind, and without secrets.

Reading a KYDB runs the pickles in it, so a URL decides whose code runs. The kinds that are allowed are those with
permissions of their own for writing: AWS's, a Redis server's, a disk's. The owner of the machine may allow more.
"""

import os
import re

from ml.errors import UserError

SCHEMES_VARIABLE = "POSITION_TRAINER_KYDB_SCHEMES"

_ALLOWED = ("dynamodb", "files", "redis", "s3")
_FORMS = {
    "dynamodb": (r"dynamodb://[\w.-]+(/.*)?", "dynamodb://TABLE/FOLDER"),
    "files": (r"files:///?[^/].*", "files://FOLDER, which starts at the root"),
    "redis": (r"redis://[\w.-]+(:\d+)?(/.*)?", "redis://HOST:PORT/FOLDER"),
    "s3": (r"s3://[\w.-]+(/.*)?", "s3://BUCKET/FOLDER"),
}
_OTHER_FORM = (r"\w+://[\w.-]+(:\d+)?(/.*)?", "KIND://NAME/FOLDER")


def allowed_schemes() -> tuple[str, ...]:
    """The kinds of KYDB that a job may use on this machine."""
    more = os.environ.get(SCHEMES_VARIABLE, "").replace(",", " ").split()
    return tuple(sorted({*_ALLOWED, *more}))


def check_url(name: str, url: str) -> None:
    """Refuses a KYDB URL that a job must not be given; the message repeats nothing of it but its kind.

    Args:
        name: the hyperparameter, for the message.
        url: one URL, several in a union (`;`), or two as a cache (`|`).

    Raises:
        UserError: it may hold a secret, is of a kind that is not allowed here, or has another form than its kind's.
    """
    if "@" in url or "?" in url:
        raise UserError(
            f"hyperparameter {name} must not hold a user name or password, nor a query, so no @ and no ?: SageMaker "
            "shows it to all who may describe the job; see SECURITY.md for where they belong"
        )
    parts = re.split(r"[;|]", url)
    if "|" in url and len(parts) != 2:
        raise UserError(
            f"hyperparameter {name} must be one URL, a union (URL;URL) or a cache of two (URL|URL), "
            f"received {len(parts)} parts, of which some are joined by |"
        )
    for part in parts:
        _check_part(name, part, f", in part {parts.index(part) + 1} of {len(parts)}" if len(parts) > 1 else "")


def _check_part(name: str, url: str, where: str) -> None:
    found = re.match(r"[a-z][a-z0-9]{0,15}(?=:/)", url)
    if not found:
        raise UserError(f"hyperparameter {name} must be a KYDB URL such as s3://BUCKET, received no kind{where}")
    if found[0] not in allowed_schemes():
        raise UserError(
            f"hyperparameter {name} must be a KYDB of the kinds {', '.join(allowed_schemes())}, received "
            f"{found[0]}://...{where}; the owner of the machine that the job runs on may allow more in "
            f"{SCHEMES_VARIABLE} (SECURITY.md says what that means)"
        )
    pattern, form = _FORMS.get(found[0], _OTHER_FORM)
    if not url.isprintable() or not re.fullmatch(pattern, url, re.ASCII):
        raise UserError(f"hyperparameter {name} must have the form {form}, received another {found[0]} URL{where}")
