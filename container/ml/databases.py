"""Connections to KYDB that end: time limits, whole files, errors that say whether waiting may help.

kydb itself waits for ever on an HTTP server, takes every error of S3 for a missing key, reads what DynamoDB held a
moment ago, and writes files in place. What is mended here is mended on the one connection that kydb keeps for a URL.
"""

import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kydb
from kydb.base import BaseDB

from ml.errors import UserError, one_line, redacted
from ml.files import sync_folder, write_whole
from ml.log import say

if TYPE_CHECKING:  # what only some kinds of database need is imported where it is used
    import botocore.exceptions

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


_OF_DAMAGED_PICKLES = (ArithmeticError, EOFError, LookupError, MemoryError, TypeError, ValueError, pickle.PickleError)


class DamagedValue(UserError):
    """What is stored under a key is not whole, so that it can be neither read nor trusted."""


def connect(url: str, timeout: float = TIMEOUT):
    """The KYDB at a URL, with time limits on its connections and everything of `mend`.

    Args:
        url: KYDB URL; unions (`;`) and caches (`|`) too.
        timeout: seconds without a byte after which a connection counts as dead. For S3 and DynamoDB
            `configure_aws` sets it.

    Raises:
        AssertionError: it is no KYDB URL.
    """
    db = kydb.connect(url)
    mend(db)
    for part in members(db):
        if part.db_type == "redis":
            _limit_redis(part, timeout)
        elif part.db_type in ("http", "https"):
            part.get_raw = _http_reader(part, timeout)
    return db


def members(db) -> list[Any]:
    """The databases that one is made of: those of a union, the cache and what it caches, or itself."""
    if hasattr(db, "persist_db"):
        return [db.cache_db, db.persist_db]
    return [each for part in db.dbs for each in members(part)] if hasattr(db, "dbs") else [db]


def mend(db) -> None:
    """Mends a database that kydb has opened; more than once does no harm.

    Values that are not whole are told as `DamagedValue`; files are written whole and last through a power loss; S3's
    errors are told from missing keys; DynamoDB is read as it is now.
    """
    for part in members(db):
        if "_deserialise" in vars(part):
            continue
        _tell_damage(part)
        if part.db_type == "files":
            part.set_raw = _file_writer(part)
        elif part.db_type == "s3":
            part.get_raw = _s3_reader(part)
        elif part.db_type == "dynamodb":
            part.get_raw = _dynamodb_reader(part)


class _NotAPickle(Exception):
    pass


def _tell_damage(db) -> None:
    def deserialise(content: bytes):
        try:
            return pickle.loads(content)  # noqa: S301 - what kydb stores; SECURITY.md says what follows
        except _OF_DAMAGED_PICKLES as error:
            raise _NotAPickle(f"its {len(content):,} bytes are no whole value ({one_line(error)})") from None

    def read(key: str, reload: bool = False):
        try:
            return BaseDB.read(db, key, reload)
        except _NotAPickle as damage:
            raise DamagedValue(_damage_message(db, key, str(damage))) from None

    db._deserialise, db.read = deserialise, read


def unpickled(db, key: str, content: bytes) -> Any:
    """The value that the stored bytes of a mended database are.

    Raises:
        DamagedValue: they are not whole; the message names the key, and its file where it is one.
    """
    try:
        return db._deserialise(content)
    except _NotAPickle as damage:
        raise DamagedValue(_damage_message(db, key, str(damage))) from None


def _damage_message(db, key: str, how: str) -> str:
    file = f", the file {db._get_fs_path(db._get_full_path(key))}," if db.db_type == "files" else ""
    return (
        f"{key} in {redacted(db.url)}{file} is damaged: {how}; restore it from a backup, or delete it and write it "
        "again"
    )


def _file_writer(db) -> Callable[[str, bytes], None]:
    """Kydb writes in place: a reader could see half a file, and a kill or a power loss would leave it."""

    def set_raw(key: str, value: bytes) -> None:
        path = Path(db._get_fs_path(key))
        _make_folder(path.parent)
        write_whole(path, value)

    return set_raw


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where they are missing, so that they last through a power loss."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _limit_redis(db, timeout: float) -> None:
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    db.connection.connection_pool.connection_kwargs |= {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    db.connection.set_retry(Retry(ExponentialBackoff(base=0.1), _ATTEMPTS - 1))


def _http_reader(db, timeout: float) -> Callable[[str], bytes]:
    import requests

    def get_raw(key: str) -> bytes:
        response = requests.get(f"{db.db_type}://{db.db_name}{key}", timeout=timeout)
        if response.status_code == 404:
            raise KeyError(key)
        response.raise_for_status()
        return bytes.fromhex(response.text)

    return get_raw


def _dynamodb_reader(db) -> Callable[[str], bytes]:
    def get_raw(key: str) -> bytes:
        item = db.table.get_item(Key={"path": key}, ConsistentRead=True).get("Item")
        if item is None:
            raise KeyError(key)
        return item["contents"].value

    return get_raw


def s3_object(db, path: str) -> tuple[bytes, str]:
    """Bytes and tag of an object; it is asked for again where the connection breaks while the bytes are read."""
    import botocore.exceptions

    for left in reversed(range(_ATTEMPTS)):
        found = db.s3.get_object(Bucket=db.db_name, Key=path[1:])
        try:
            return found["Body"].read(), found["ETag"]
        except botocore.exceptions.ResponseStreamingError:
            if not left:
                raise
            time.sleep(0.1)
    raise AssertionError


def _s3_reader(db) -> Callable[[str], bytes]:
    import botocore.exceptions

    def get_raw(key: str) -> bytes:
        try:
            return s3_object(db, key)[0]
        except botocore.exceptions.ClientError as error:
            if is_transient(error):
                raise
            raise KeyError(key) from error  # forbidden, too: without s3:ListBucket a missing key looks like that
        except botocore.exceptions.ParamValidationError as error:
            raise KeyError(key) from error

    return get_raw


def is_transient(error: BaseException) -> bool:
    """Whether waiting may help: no answer, a connection refused or cut, a server that says it is unwell."""
    import botocore.exceptions
    import redis.exceptions

    if isinstance(error, botocore.exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or aws_code(error) in _THROTTLED
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
        return False
    if "requests" in sys.modules:  # which only http needs
        import requests

        if isinstance(error, requests.HTTPError):
            return error.response is not None and error.response.status_code >= 500
        if isinstance(error, requests.ConnectionError | requests.Timeout):
            return True
    return isinstance(
        error,
        (
            ConnectionError,
            TimeoutError,
            redis.exceptions.ConnectionError,
            redis.exceptions.TimeoutError,
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
    import tenacity

    told = []

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        if error and not told:
            told.append(True)
            say(f"{what} failed and is tried again for {patience:g} s: {one_line(error)}")

    return tenacity.Retrying(
        # At most 5 s between attempts, so that a process that is asked to end ends soon.
        wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=5),
        retry=tenacity.retry_if_exception(retry),
        stop=lambda state: given_up() or tenacity.stop_before_delay(patience)(state),
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


def aws_code(error: "botocore.exceptions.ClientError") -> str:
    """The error's name in AWS's words, such as AccessDenied."""
    return error.response.get("Error", {}).get("Code", "?")


def exists(db, key: str) -> bool:
    """Whether a key exists; kydb's own answer for S3 is no where reading is forbidden.

    Raises:
        UserError: S3 does not say.
    """
    return any(_exists(part, key) for part in members(db))


def _exists(db, key: str) -> bool:
    if db.db_type != "s3":
        return db.exists(key)
    import botocore.exceptions

    try:
        db.s3.head_object(Bucket=db.db_name, Key=db._get_full_path(key)[1:])
    except botocore.exceptions.ClientError as error:
        return s3_answer(db, key, error)
    return True


def s3_answer(db, key: str, error: "botocore.exceptions.ClientError") -> bool:
    """False where S3's error says that a key does not exist; other errors are raised.

    Raises:
        UserError: it is forbidden, so nobody knows.
    """
    if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
        return False
    if is_transient(error):
        raise error
    raise UserError(
        f"{key} in {redacted(db.url)} may not be read ({aws_code(error)}); grant s3:GetObject, "
        "and s3:ListBucket, without which S3 does not say whether a key exists"
    ) from None
