"""Connections to KYDB that end: time limits, whole files, errors that say whether waiting may help.

kydb itself waits for ever on an HTTP server, takes every error of S3 for a missing key, and writes files in
place. What is mended here is mended on the one connection that kydb keeps for a URL.
"""

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.exceptions
import kydb
import redis
import requests
import tenacity
from kydb.impl.files import FileDB
from kydb.impl.http import HttpDB
from kydb.impl.redis import RedisDB
from kydb.impl.s3 import S3DB

from ml.errors import UserError, one_line, redacted

TIMEOUT = 20  # seconds without a byte after which a connection counts as dead

_ATTEMPTS = 4  # of one request, within a second or two; longer outages are for `patiently`
_POOL = 16  # connections that boto3 keeps open; time series read 8 at a time
_THROTTLED = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
)


def connect(url: str, timeout: float = TIMEOUT):
    """The KYDB at a URL, with time limits on its connections and files written whole.

    Args:
        url: KYDB URL; unions (`;`) and caches (`|`) too.
        timeout: seconds without a byte after which a connection counts as dead. For S3 and DynamoDB
            `configure_aws` sets it.

    Raises:
        AssertionError: it is no KYDB URL.
    """
    for part in re.split(r"[;|]", url):
        db = kydb.connect(part)
        write_files_whole(db)
        if isinstance(db, RedisDB):
            db.connection.connection_pool.connection_kwargs |= {
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
            }
            db.connection.set_retry(redis.retry.Retry(redis.backoff.ExponentialBackoff(base=0.1), _ATTEMPTS - 1))
        elif isinstance(db, HttpDB):
            db.get_raw = _http_reader(db, timeout)
        elif isinstance(db, S3DB):
            db.get_raw = _s3_reader(db)
    return kydb.connect(url)


def write_files_whole(db) -> None:
    """Makes a kydb file database write a value under another name and rename it.

    kydb writes files in place, so a reader could see half of one, and a kill would leave half of one.
    """
    if isinstance(db, FileDB) and "set_raw" not in vars(db):

        def set_raw(key: str, value: bytes) -> None:
            temporary = f"{key}.writing-{uuid.uuid4().hex}"
            try:
                FileDB.set_raw(db, temporary, value)
                Path(db._get_fs_path(temporary)).replace(db._get_fs_path(key))
            except BaseException:
                Path(db._get_fs_path(temporary)).unlink(missing_ok=True)
                raise

        db.set_raw = set_raw


def _http_reader(db: HttpDB, timeout: float) -> Callable[[str], bytes]:
    def get_raw(key: str) -> bytes:
        response = requests.get(f"{db.db_type}://{db.db_name}{key}", timeout=timeout)
        if response.status_code == 404:
            raise KeyError(key)
        response.raise_for_status()
        return bytes.fromhex(response.text)

    return get_raw


def _s3_reader(db: S3DB) -> Callable[[str], bytes]:
    def get_raw(key: str) -> bytes:
        try:
            return db.s3.get_object(Bucket=db.db_name, Key=key[1:])["Body"].read()
        except botocore.exceptions.ClientError as error:
            if is_transient(error):
                raise
            raise KeyError(key) from error  # forbidden, too: without s3:ListBucket a missing key looks like that
        except botocore.exceptions.ParamValidationError as error:
            raise KeyError(key) from error

    return get_raw


def is_transient(error: BaseException) -> bool:
    """Whether waiting may help: no answer, a connection refused or cut, a server that says it is unwell."""
    if isinstance(error, botocore.exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or aws_code(error) in _THROTTLED
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
        return False
    return isinstance(
        error,
        (
            ConnectionError,
            TimeoutError,
            redis.exceptions.ConnectionError,
            redis.exceptions.TimeoutError,
            requests.ConnectionError,
            requests.Timeout,
            botocore.exceptions.ConnectionError,
            botocore.exceptions.HTTPClientError,
        ),
    )


def patiently(
    function: Callable,
    *arguments,
    patience: float,
    what: str,
    retry: Callable[[BaseException], bool] = is_transient,
    given_up: Callable[[], bool] = lambda: False,
) -> Any:
    """The function's result; while it fails in a way that waiting may mend, it is called again.

    Args:
        function: called with the arguments.
        arguments: of the function.
        patience: seconds to keep trying.
        what: what is tried, for the line that says that it is tried again.
        retry: whether an error is worth another attempt.
        given_up: looked at between attempts: whether to end.

    Raises:
        Exception: the last attempt's.
    """
    told = []

    def tell(state: tenacity.RetryCallState) -> None:
        if not told:
            told.append(True)
            print(
                f"{what} failed and is tried again for {patience:g} s: {one_line(state.outcome.exception())}",
                flush=True,
            )

    return tenacity.Retrying(
        # At most 5 s between attempts, so that a process that is asked to end ends soon.
        wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=5),
        retry=tenacity.retry_if_exception(retry),
        stop=tenacity.stop_any(tenacity.stop_before_delay(patience), lambda _: given_up()),
        before_sleep=tell,
        reraise=True,
    )(function, *arguments)


def configure_aws(timeout: float = TIMEOUT) -> None:
    """Gives boto3's default session SageMaker's region, and timeouts that end.

    SageMaker sets AWS_REGION, botocore reads AWS_DEFAULT_REGION; and kydb makes its clients without a
    configuration, with which an unreachable endpoint takes minutes to fail.
    """
    import boto3
    import botocore.config
    import botocore.session

    session = botocore.session.get_session()
    if region := os.environ.get("AWS_REGION"):
        session.set_config_variable("region", os.environ.get("AWS_DEFAULT_REGION") or region)
    session.set_default_client_config(
        botocore.config.Config(
            connect_timeout=min(5, timeout),
            read_timeout=timeout,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=_POOL,
        )
    )
    boto3.setup_default_session(botocore_session=session)


def aws_code(error: botocore.exceptions.ClientError) -> str:
    """The error's name in AWS's words, such as AccessDenied."""
    return error.response.get("Error", {}).get("Code", "?")


def exists(db, key: str) -> bool:
    """Whether a key exists; kydb's own answer for S3 is no where reading is forbidden."""
    if hasattr(db, "s3"):
        try:
            db.s3.head_object(Bucket=db.db_name, Key=db._get_full_path(key)[1:])
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            if is_transient(error):
                raise
            raise UserError(
                f"{key} in {redacted(db.url)} may not be read ({aws_code(error)}); grant s3:GetObject, "
                "and s3:ListBucket, without which S3 does not say whether a key exists"
            ) from None
        return True
    return db.exists(key)
