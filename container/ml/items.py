"""One item of a KYDB database, read as it is now and replaced only if nobody else has replaced it since.

kydb has neither: it reads through a cache, and of two that read, change and write an item the second undoes what the
first did. Each kind of database can do better, and here is how.
"""

import contextlib
import copy
import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from kydb.base import BaseDB

from ml.databases import s3_answer, s3_object
from ml.errors import UserError, redacted

_LOCK_SECONDS = 30  # to wait for another writer's lock on an S3 server without conditional writes
_IN_THIS_PROCESS = threading.Lock()


def item_now(db: BaseDB, key: str) -> bytes | None:
    """The pickle under a key of a mended database, past kydb's cache; None where there is nothing.

    Raises:
        UserError: it may not be read, so nobody knows whether there is something.
    """
    path = db._get_full_path(key)
    if db.db_type == "s3":
        return _s3_item(db, key)[0]
    try:
        return db.get_raw(path)
    except KeyError:
        return None


def swap(db: BaseDB, key: str, old: bytes | None, new: bytes) -> bool:
    """Replaces the pickle under a key of a mended database if it still is `old` (None: if there still is nothing).

    Returns:
        Whether it did. Where a connection broke, the answer may be no although the item was written: read it.

    Raises:
        UserError: the kind of database cannot be written, or another writer holds it for too long.
    """
    kinds: dict[str, Callable[[BaseDB, str, bytes | None, bytes], bool]] = {
        "files": _swap_file,
        "memory": _swap_in_memory,
        "redis": _swap_redis,
        "s3": _swap_s3,
        "dynamodb": _swap_dynamodb,
    }
    if db.db_type not in kinds:
        raise UserError(f"{redacted(db.url)} cannot be written; use one of {', '.join(kinds)}")
    swapped = kinds[db.db_type](db, key, old, new)
    for cached in (key, db._get_full_path(key)):
        db._cache.pop(cached, None)
    return swapped


def _swap_file(db, key: str, old: bytes | None, new: bytes) -> bool:
    import fcntl  # not on Windows, where files can be read all the same

    lock = Path(db._get_fs_path(db._get_full_path("/.configs/writing.lock")))
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file, and with the process
        return _swap_plainly(db, key, old, new)


def _swap_in_memory(db, key: str, old: bytes | None, new: bytes) -> bool:
    with _IN_THIS_PROCESS:
        return _swap_plainly(db, key, old, new)


def _swap_plainly(db, key: str, old: bytes | None, new: bytes) -> bool:
    if item_now(db, key) != old:
        return False
    db.set_raw(db._get_full_path(key), new)
    return True


# Redis and DynamoDB: kydb writes an item with what lists its folder and orders it by time. Its own code does that here,
# on a copy of the connection that adds the condition.


def _swap_redis(db, key: str, old: bytes | None, new: bytes) -> bool:
    import redis

    path = db._get_full_path(key)
    _make_folders(db, path)
    with db.connection.pipeline() as pipe:
        pipe.watch(path)
        if pipe.get(path) != old:
            return False
        pipe.multi()
        writer = copy.copy(db)
        writer.connection = SimpleNamespace(pipeline=lambda transaction: pipe)
        try:
            writer.folder_meta_set_raw(path, new)
        except redis.WatchError:
            return False
    return True


def _swap_dynamodb(db, key: str, old: bytes | None, new: bytes) -> bool:
    import botocore.exceptions
    from boto3.dynamodb.conditions import Attr

    path = db._get_full_path(key)
    _make_folders(db, path)
    condition = Attr("path").not_exists() if old is None else Attr("contents").eq(old)
    writer = copy.copy(db)
    writer.table = SimpleNamespace(
        update_item=lambda **update: db.table.update_item(**update, ConditionExpression=condition)
    )
    try:
        writer.folder_meta_set_raw(path, new)
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
            return False
        raise
    return True


def _make_folders(db, path: str) -> None:
    """Writes what kydb keeps of the folders above an item."""
    if folder := path.rpartition("/")[0]:
        db.mkdir_raw(folder)


# S3


def _s3_item(db, key: str) -> tuple[bytes | None, str]:
    import botocore.exceptions

    try:
        return s3_object(db, db._get_full_path(key))
    except botocore.exceptions.ClientError as error:
        s3_answer(db, key, error)
        return None, ""


def _swap_s3(db, key: str, old: bytes | None, new: bytes) -> bool:
    import botocore.exceptions

    path = db._get_full_path(key)
    _make_folders(db, path)
    if not _has_conditional_writes(db, path):
        with _s3_lock(db, key):
            return _swap_plainly(db, key, old, new)
    found, tag = _s3_item(db, key)
    if found != old:
        return False
    condition = {"IfNoneMatch": "*"} if old is None else {"IfMatch": tag}
    try:
        db.s3.put_object(Bucket=db.db_name, Key=path[1:], Body=new, **condition)
    except botocore.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):  # gone, being written, replaced
            return False
        raise
    return True


def _has_conditional_writes(db, path: str) -> bool:
    """Whether the server looks at If-Match: AWS and most others do, some that imitate S3 do not.

    A write beside a path is tried whose condition cannot hold, so that nothing is written where it is looked at.
    """
    import botocore.exceptions

    if "_has_conditional_writes" not in vars(db):
        probe = {"Bucket": db.db_name, "Key": f"{path[1:]}.probe-{uuid.uuid4().hex}"}
        try:
            db.s3.put_object(**probe, Body=b"", IfMatch=f'"{"0" * 32}"')
            db.s3.delete_object(**probe)
            db._has_conditional_writes = False
        except botocore.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status not in (404, 412, 501):
                raise
            db._has_conditional_writes = status != 501
    return db._has_conditional_writes


@contextlib.contextmanager
def _s3_lock(db, key: str):
    """Lets one writer at a time in: the one whose object is alone in the item's folder of locks.

    Of two, the one that puts its object later sees the other's. A lock is never taken for dead: its writer may only
    be slow.
    """
    folder = db._get_full_path(f"/.configs/locks/{key.strip('/')}/")[1:]
    mine = {"Bucket": db.db_name, "Key": folder + uuid.uuid4().hex}
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        db.s3.put_object(**mine, Body=b"")
        try:
            found = db.s3.list_objects_v2(Bucket=db.db_name, Prefix=folder).get("Contents", [])
            others = [each["Key"] for each in found if each["Key"] != mine["Key"]]
            if not others:
                yield
                return
        finally:
            db.s3.delete_object(**mine)
        if time.monotonic() > deadline:
            raise UserError(
                f"{key} in {redacted(db.url)} is being written by another since {_LOCK_SECONDS} s; try again, or "
                f"delete the object {others[0]} if its writer has died"
            )
        time.sleep(random.uniform(0.02, 0.5))  # noqa: S311 - so that writers do not meet again
