"""The one place where an exception becomes what a command ends with: a line for the user, and an exit code.

Exceptions are told apart by their base classes and by AWS's codes and HTTP statuses, so that one which nobody thought
of still gets the line of its kind. Exit codes: 1 for what a user can mend (2, a wrong command line, is click's own),
70 for a fault of the launcher, 130 for Ctrl-C, 141 for a reader that went away.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path

import botocore.exceptions as aws
from boto3.exceptions import Boto3Error, RetriesExceededError

from ml.errors import UserError, printable, redacted

MENDABLE, OUR_FAULT, INTERRUPTED, BROKEN_PIPE = 1, 70, 130, 141

_LONGEST = 400
_LITTLE_SPACE = 2**20

# AWS's codes, or the names of its services' exceptions, and what helps. The first that is found counts.
_BY_CODE = (
    (
        r"Expired|TokenRefreshRequired|InvalidToken",
        "the AWS credentials have expired; renew them, as by `aws sso login`",
    ),
    (
        r"InvalidClientTokenId|UnrecognizedClient|InvalidAccessKeyId|Signature|AuthFailure|MissingAuthentication",
        "AWS does not know these credentials; run `aws configure`, or set AWS_PROFILE",
    ),
    (r"TimeTooSkewed|RequestInTheFuture", "set this machine's clock"),
    (r"NoSuchBucket", "create the bucket, or name another with --bucket"),
    (
        r"AccessDenied|Unauthorized|NotAuthorized|Forbidden|AllAccessDisabled",
        "allow it to these credentials (`aws sts get-caller-identity` says whose they are), or set AWS_PROFILE",
    ),
    (r"Throttl|TooManyRequests|SlowDown|RequestLimitExceeded|ThroughputExceeded", "try again in a minute"),
    (r"LimitExceeded|Quota", "ask AWS for a higher quota (Service Quotas), or use less of it"),
    (r"RequestTimeout", "try again"),
)
_BY_STATUS = {401: _BY_CODE[1][1], 403: _BY_CODE[4][1], 429: "try again in a minute"}

_BY_CLASS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (aws.NoCredentialsError, aws.NoAuthTokenError),
        "no AWS credentials were found; run `aws configure`, or set AWS_PROFILE",
    ),
    ((aws.SSOError, aws.LoginError, aws.TokenRetrievalError), "run `aws sso login`, or set AWS_PROFILE"),
    (
        (aws.ProfileNotFound, aws.ConfigParseError, aws.ConfigNotFound, aws.InvalidConfigError),
        "`aws configure list-profiles` lists those there are; set AWS_PROFILE, or mend ~/.aws/config",
    ),
    (
        (aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.MetadataRetrievalError),
        "mend the profile in ~/.aws, or set AWS_PROFILE to another",
    ),
    (
        (aws.BaseEndpointResolverError, aws.EndpointProviderError, aws.InvalidRegionError, aws.ServiceNotInRegionError),
        "look at --region and AWS_REGION",
    ),
    (
        (aws.ReadTimeoutError, aws.ConnectTimeoutError),
        "AWS did not answer in time; look at the network and the proxy, and try again",
    ),
    (
        (aws.HTTPClientError, aws.ConnectionError),
        "look at the network, the proxy and AWS_ENDPOINT_URL, and try again",
    ),
)


def line_and_code(error: BaseException, folders: Iterable[Path] = ()) -> tuple[str, int]:
    """What a command that ended with an exception says, and its exit code.

    Args:
        error: what ended it.
        folders: where the command writes, for a full disk whose error names no file.

    Returns:
        One line, empty where nothing is to be said.
    """
    if isinstance(error, BrokenPipeError):
        return "", BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    told = mendable(error, folders)
    code = MENDABLE
    if told is None:
        told, code = _our_fault(error), OUR_FAULT
    notes = [note.strip() for note in getattr(error, "__notes__", [])]
    return redacted(printable("; ".join([f"error: {told}", *notes]))), code


def mendable(error: BaseException, folders: Iterable[Path] = ()) -> str | None:
    """What a user can mend and how; None where it is a fault of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, aws.ClientError):
        return _aws_refusal(error)
    if isinstance(error, Boto3Error):  # of a transfer: the reason is the exception that it was made of
        cause = (
            error.last_exception if isinstance(error, RetriesExceededError) else error.__cause__ or error.__context__
        )
        reason = mendable(cause, folders) if isinstance(cause, Exception) else None
        return reason or _cut(error)
    if isinstance(error, aws.BotoCoreError):
        remedy = next((remedy for kinds, remedy in _BY_CLASS if isinstance(error, kinds)), "")
        text = _cut(error).rstrip(".")
        return remedy if remedy.startswith("no AWS") else f"AWS cannot be asked: {text}" + (remedy and f"; {remedy}")
    if isinstance(error, OSError):
        return _of_the_system(error, folders)
    if isinstance(error, MemoryError):
        return "this machine has too little memory for that"
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error.name):
        return f"the package {error.name} is not installed; pip install -r sagemaker/requirements.txt"
    return None


def _aws_refusal(error: aws.ClientError) -> str:
    answer = error.response.get("Error", {})
    code, status = str(answer.get("Code", "")), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    remedy = next((remedy for pattern, remedy in _BY_CODE if re.search(pattern, code)), "") or _BY_STATUS.get(status)
    if not remedy and status >= 500:
        remedy = "AWS has a fault; try again later"
    of = f" ({answer['BucketName']})" if answer.get("BucketName") else ""
    text = _cut(answer.get("Message") or "").rstrip(".")
    # What is not AWS, a proxy for instance, answers without a code and a message.
    said = ": ".join(filter(None, [code + of, text])) or f"HTTP status {status}"
    return f"AWS refused {error.operation_name}: {said}" + (f"; {remedy}" if remedy else "")


def _of_the_system(error: OSError, folders: Iterable[Path]) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"on the disk of {names[-1] if names else _fullest(folders)}"
        return f"no space is left {where}; free some, or give --runs FOLDER on another disk"
    if error.strerror is None:  # as of the libraries whose errors are OSErrors
        return f"{type(error).__name__}: {_cut(error)}"
    remedy = {errno.EACCES: "; grant access to it", errno.EROFS: "; give --runs FOLDER on a disk that can be written"}
    return ": ".join([*names, error.strerror.lower()]) + remedy.get(error.errno or 0, "")


def _fullest(folders: Iterable[Path]) -> str:
    """The folder whose disk has nothing left."""
    for folder in (*folders, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free < _LITTLE_SPACE:
                return str(folder)
    return "standard output"


def _is_ours(module: str | None) -> bool:
    here = Path(__file__).resolve().parent
    name = (module or "").partition(".")[0]
    return name == "ml" or (here / name).is_dir() or (here / f"{name}.py").is_file()


def _our_fault(error: BaseException) -> str:
    what = f"{type(error).__name__}: {_cut(error)}".rstrip(": ")
    try:
        descriptor, path = tempfile.mkstemp(prefix="position-trainer-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redacted("".join(traceback.format_exception(error))))
        where = f"report it with {path}"
    except OSError as problem:
        where = f"report it; its traceback could not be written: {problem.strerror}"
    return f"a fault of the launcher, not of yours ({what}); {where}"


def _cut(text: object) -> str:
    one_line = " ".join(str(text).split())
    return one_line if len(one_line) <= _LONGEST else f"{one_line[:_LONGEST]}..."
