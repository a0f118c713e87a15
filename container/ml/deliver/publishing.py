"""Publishing: a model under a KYDB key for those who read it from there, and every model that was there before.

TensorFlow is not needed: the launcher publishes finished models without it.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypedDict

from ml.databases import TIMEOUT, DamagedValue, connect, patiently
from ml.deliver.results import JobRecord, Metrics
from ml.errors import UserError, one_line, redacted
from ml.log import say
from ml.settings import Settings

_DYNAMODB_ITEM_BYTES = 400_000
_H5_BYTES, _H5_BYTES_A_LAYER = 11_000, 5_200  # of an .h5 file beside its weights, as measured for 1 to 32 layers
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_VERSIONS_FOLDER = "/model_versions"  # apart from the models, so that db.ls shows the models alone
# The input's width as Keras 2 and 3 write it. Searched for in the bytes: the HDF5 library may crash on a damaged file.
_LOOKBACK = re.compile(rb'"batch_(?:input_)?shape": \[null, (\d{1,9})\]')


class Description(TypedDict):
    """What a version record says of a model beside who published it when; None: unknown.

    Attributes:
        lookback: number of prices that the model takes.
        centred: whether its first layer centres the windows.
        horizon: bars that the labels look ahead.
        verdict: what the job found the model to be worth.
        publication: why publish_if let it be published.
        rows: of the history that it was made from.
        last: time of the last of them.
        data_sha256: of the history that it was trained on.
        measured_sha256: of the .h5 that the verdict is of, where this one is its refit on every row.
        project_version: of this project.
    """

    lookback: int | None
    centred: bool | None
    horizon: int | None
    verdict: str | None
    publication: str | None
    rows: int | None
    last: str | None
    data_sha256: str | None
    measured_sha256: str | None
    project_version: str | None


def description(record: JobRecord, metrics: Metrics | None = None) -> Description:
    """A model's description from its job's job.json and metrics.json."""
    settings = record["settings"]
    refit = (metrics or {}).get("refit")
    return {
        "lookback": settings.get("lookback"),
        "centred": settings.get("centred"),
        "horizon": settings.get("horizon"),
        "verdict": (metrics or {}).get("performance", {}).get("verdict"),
        "publication": (metrics or {}).get("publication"),
        "rows": record["data"].get("rows"),
        "last": record["data"].get("last"),
        "data_sha256": record["data"].get("sha256"),
        "measured_sha256": refit["measured_sha256"] if refit else None,
        "project_version": record.get("version"),
    }


def lookback_of(content: bytes) -> int | None:
    """Number of prices that the model in an .h5 file takes; None where the file does not say."""
    found = _LOOKBACK.search(content)
    return int(found.group(1)) if found else None


class ModelTarget:
    """The KYDB key that a model is published to.

    Args:
        url: KYDB URL.
        key: the model's key.
        job_name: the job that publishes.
        timeout: seconds without a byte after which a connection counts as dead.
    """

    def __init__(self, url: str, key: str, job_name: str, timeout: float = TIMEOUT):
        self._url, self._key, self._job_name, self._timeout = url, key, job_name, timeout

    def __str__(self) -> str:
        return f"{redacted(self._url)} {self._key}"

    def check(self, settings: Settings, *, given_up: Callable[[], bool] = lambda: False) -> None:
        """Proves, before anything expensive, that the settings' model can be published.

        Writes and deletes a small object beside the key, and one where its versions are kept.

        Args:
            settings: weights and layers tell the model's size, read_seconds how long to keep trying where the
                database does not answer.
            given_up: looked at between attempts: whether to end.

        Raises:
            UserError: it cannot, or readers of the model under the key send another number of prices.
        """
        model_bytes = 4 * settings.weights + _H5_BYTES + _H5_BYTES_A_LAYER * settings.layers
        if "dynamodb://" in self._url and model_bytes > _DYNAMODB_ITEM_BYTES:
            raise UserError(
                f"the model, about {model_bytes / 1e6:.1f} MB, does not fit a DynamoDB item (400 KB); "
                f"set model_db to an s3:// URL instead of {redacted(self._url)}"
            )
        job = hashlib.sha256(self._job_name.encode()).hexdigest()[:12]  # short, since names of files are limited
        probes = [f"{place}probe-{job}" for place in (f"{self._key}.", f"{_VERSIONS_FOLDER}/{self._key.strip('/')}/")]

        def write_and_compare():
            db = connect(self._url, self._timeout)
            for probe in probes:
                db[probe] = self._job_name
                if db.read(probe, reload=True) != self._job_name:
                    raise OSError("what was read back is not what was written")
                with contextlib.suppress(Exception):  # may write but not delete: a few bytes stay, nothing is wrong
                    db.delete(probe)
            before, _ = _model_at(db, self._key)
            if before is not None and not settings.replace_lookback:
                _refuse_other_lookback(db, self._key, before, settings.lookback)

        try:
            patiently(write_and_compare, patience=settings.read_seconds, what=f"writing to {self}", given_up=given_up)
        except UserError as error:
            raise UserError(f"the model cannot be published to {redacted(self._url)}: {error}") from None
        except Exception as error:
            raise UserError(
                f"the model cannot be published to {self}: {one_line(error)}; grant this job write and "
                f"read access there and under {_VERSIONS_FOLDER}, or change model_db and model_key"
            ) from error

    def current(
        self, patience: float, *, given_up: Callable[[], bool] = lambda: False
    ) -> tuple[bytes | None, dict[str, Any]]:
        """The model under the key and its version's record, {} where it has none; None and {}: there is no model.

        Of a refit the content is that of the model that was measured, which has not seen every row.

        Raises:
            Exception: KYDB does not answer, or the measured model of a refit is not there.
        """

        def read():
            db = connect(self._url, self._timeout)
            content, _ = _model_at(db, self._key)
            if content is None:
                return None, {}
            try:
                record = json.loads(_stored(db, f"{version_key(self._key, content)}.json") or "{}")
            except (ValueError, TypeError):  # a damaged one
                record = {}
            record = record if isinstance(record, dict) else {}
            if record.get("measured_sha256"):
                measured = _stored(db, measured_key(self._key, content))
                if not isinstance(measured, bytes):
                    raise UserError(
                        f"it is a refit, and {measured_key(self._key, content)}, what was measured, is lost"
                    )
                content = measured
            return content, record

        return patiently(read, patience=patience, what=f"reading {self}", given_up=given_up)

    def publish(
        self,
        content: bytes,
        settings: Settings,
        about: Description,
        *,
        measured: bytes | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Publishes the bytes of an .h5 file as the function `publish` does, and prints what came of it.

        A database that keeps refusing is no reason to lose the job: the model is in model/, and
        `launch.py publish` finishes the work later.

        Args:
            content: the file's bytes.
            settings: the job's: publish_seconds and replace_lookback.
            about: for the record of this version.
            measured: the .h5 file of the model that was measured, where this one is its refit.
            given_up: looked at between attempts: whether to end.

        Returns:
            Whether the model is published.
        """
        try:
            publish(
                self._url,
                self._key,
                content,
                self._job_name,
                about=about,
                measured=measured,
                replace_lookback=settings.replace_lookback,
                patience=settings.publish_seconds,
                timeout=self._timeout,
                given_up=given_up,
            )
        except Exception as error:
            say(
                f"NOT PUBLISHED: {error}; the model is kept in model/, publish it with: "
                f"launch.py publish {self._job_name}"
            )
            return False
        say(f"published to {self}")
        return True


def publish(
    url: str,
    key: str,
    content: bytes,
    job_name: str,
    *,
    about: Description | None = None,
    measured: bytes | None = None,
    replace_lookback: bool = False,
    patience: float = 300,
    timeout: float = TIMEOUT,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Puts the bytes of an .h5 file under a KYDB key; the models that were there stay, under other keys.

    The bytes are first written under their `version_key`, read back and compared, and a record of the job is
    put beside them. Only then is the key itself set, in the one write that every backend has for an item, so
    that a reader sees one whole model or the other, whoever else publishes at the same time.

    Args:
        url: KYDB URL.
        key: the model's key.
        content: the file's bytes.
        job_name: the job that made it.
        about: for the record of this version; None: only what the file itself says is known.
        measured: the .h5 file of the model that was measured, where this one is its refit; kept beside the version.
        replace_lookback: whether it may take the place of a model that takes another number of prices.
        patience: seconds to keep trying: a model that took hours is worth waiting for a database that restarts.
        timeout: seconds without a byte after which a connection counts as dead.
        given_up: looked at between attempts: whether to end.

    Raises:
        UserError: they are not an HDF5 file, the key holds something else or a model of another lookback, or KYDB
            keeps refusing.
    """
    if not content.startswith(_HDF5_MAGIC):
        raise UserError(f"what should be published to {redacted(url)} {key} is not an HDF5 file")
    try:
        patiently(
            _publish_once,
            url,
            key,
            content,
            job_name,
            about or _unknown(content),
            measured,
            replace_lookback,
            timeout,
            patience=patience,
            given_up=given_up,
            what=f"publishing to {redacted(url)} {key}",
            retry=lambda error: not isinstance(error, UserError),
        )
    except UserError as error:
        raise UserError(f"publishing to {redacted(url)} failed: {error}") from None
    except Exception as error:
        raise UserError(f"publishing to {redacted(url)} {key} failed: {one_line(error)}") from error


def _publish_once(
    url: str,
    key: str,
    content: bytes,
    job_name: str,
    about: Description,
    measured: bytes | None,
    replace_lookback: bool,
    timeout: float,
) -> None:
    db = connect(url, timeout)
    before, damaged = _model_at(db, key)
    if damaged:
        say(f"{key} in {redacted(url)} is damaged, as a loss of power leaves it, and is replaced")
        _keep_damaged(db, key)
    if before is not None:
        if about["lookback"] and not replace_lookback:
            _refuse_other_lookback(db, key, before, about["lookback"])
        if _stored(db, version_key(key, before)) != before:  # published by another program, or the version is damaged
            _write_version(db, key, before, "unknown", _unknown(before))
    if measured is not None:
        db[measured_key(key, content)] = measured
    _write_version(db, key, content, job_name, about)
    db[key] = content
    found, _ = _model_at(db, key)
    if found != content and not (found and _stored(db, version_key(key, found)) == found):  # nor another job's model
        raise OSError("the model read back is not the model written")


def _refuse_other_lookback(db, key: str, before: bytes, lookback: int) -> None:
    """Raises UserError where the model under a key takes another number of prices than the new one."""
    found = None
    with contextlib.suppress(ValueError, TypeError, AttributeError):  # no record, or a damaged one
        found = json.loads(_stored(db, f"{version_key(key, before)}.json") or "").get("lookback")
    found = found or lookback_of(before)
    if found and found != lookback:
        raise UserError(
            f"{key} holds a model that takes {found} prices, and this one takes {lookback}, which its readers do not "
            f"send; set lookback={found}, or another model_key, or replace_lookback=true to replace it all the same"
        )


def _model_at(db, key: str) -> tuple[bytes | None, bool]:
    """The model under a key, None where there is none, and whether the key holds a damaged object.

    Raises:
        UserError: the key holds something else, which publishing would destroy.
    """
    try:
        found = db.read(key, reload=True)
    except KeyError:
        return None, False
    except DamagedValue:
        return None, True
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{key} holds an object of a class that is not here ({one_line(error)}); set model_key to another key"
        ) from None
    if not isinstance(found, bytes):
        raise UserError(f"{key} holds a {type(found).__name__} and not a model; set model_key to another key")
    return found, False


def _stored(db, key: str) -> bytes | str | None:
    """What is under a key of the versions; None where there is nothing, or where it is damaged."""
    try:
        return db.read(key, reload=True)
    except (KeyError, DamagedValue):
        return None


def _keep_damaged(db, key: str) -> None:
    """Keeps the stored bytes of a damaged object under the versions, where there are any and the database lets it."""
    with contextlib.suppress(Exception):  # a union of databases, say
        if raw := db.get_raw(db._get_full_path(key)):
            db[f"{version_key(key, raw)}.damaged"] = raw


def _write_version(db, key: str, content: bytes, job_name: str, about: Description) -> None:
    version = version_key(key, content)
    db[version] = content
    if db.read(version, reload=True) != content:
        raise OSError("the model read back is not the model written")
    published = datetime.now(timezone.utc).isoformat(timespec="seconds")
    db[f"{version}.json"] = json.dumps({"job": job_name, "published": published, "bytes": len(content)} | about)


def version_key(key: str, content: bytes) -> str:
    """The key that keeps a model for good; its record is beside it, under the same with `.json`."""
    return f"{_VERSIONS_FOLDER}/{key.strip('/')}/{hashlib.sha256(content).hexdigest()}"


def measured_key(key: str, content: bytes) -> str:
    """The key that keeps the model that was measured, beside the version of its refit."""
    return f"{version_key(key, content)}.measured"


def _unknown(content: bytes) -> Description:
    return {
        "lookback": lookback_of(content),
        "centred": None,
        "horizon": None,
        "verdict": None,
        "publication": None,
        "rows": None,
        "last": None,
        "data_sha256": None,
        "measured_sha256": None,
        "project_version": None,
    }
