"""What a job on this machine reads: channels copied into its folder, and a simulated market in a KYDB.

A channel is a snapshot: a copy that shares nothing with the user's files but, where the file system can, the blocks
on disk until one of the two is changed.
"""

import fcntl
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from console import remark
from ml.data.listing import ChannelFile, list_together
from ml.errors import UserError
from request import local_paths, split_s3

_SAMPLE_SEED = 1
_CLONE = 0x40049409  # Linux' ioctl FICLONE: Btrfs, XFS and others
_COPIED_BYTES = 1 << 20  # at a time
_CONNECT_SECONDS, _ATTEMPTS = 10, 4


class NoObjects(UserError):
    """There is nothing under an S3 prefix."""


def bring_channel(uri: str, folder: Path, *, read_only: bool = False) -> None:
    """Copies the files of a channel to where the job reads them.

    Args:
        uri: `request.file_uri`'s of files and folders, or s3://bucket/prefix.
        folder: input/data/<channel>; made here.
        read_only: whether the copies get no write bits.

    Raises:
        UserError: there is nothing at the URI, or it cannot be read, or the copy cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if uri.startswith("s3://"):
        _download_channel(uri, folder)
    else:
        _copy_channel(uri, folder)
    if read_only:
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o444)


def files_at(uri: str) -> list[ChannelFile]:
    """The files of a channel on this machine, as the job would list them.

    Args:
        uri: `request.file_uri`'s.

    Raises:
        UserError: there are none, or one cannot be read, or two have the same name.
    """
    paths = local_paths(uri)
    files = list_together(paths, remark).files
    if not files:
        raise UserError(f"{', '.join(map(str, paths))} holds no files")
    return files


def _copy_channel(uri: str, folder: Path) -> None:
    for file in files_at(uri):
        target = folder / file.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(file.path, target)
        except OSError as error:
            raise UserError(
                f"the channel's {file.path} cannot be copied to {target}: {error.strerror or error}"
            ) from None


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's content; at no cost where the file system lets two files share blocks."""
    with source.open("rb") as read, target.open("wb") as written:
        try:
            fcntl.ioctl(written.fileno(), _CLONE, read.fileno())
        except OSError:  # another file system, or one that cannot
            shutil.copyfileobj(read, written, _COPIED_BYTES)


def _download_channel(uri: str, folder: Path) -> None:
    import boto3
    import botocore.config

    retries: Any = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    config = botocore.config.Config(connect_timeout=_CONNECT_SECONDS, retries=retries)
    download_prefix(boto3.client("s3", config=config), uri, folder, hidden=False)


def download_prefix(client: Any, uri: str, folder: Path, *, hidden: bool) -> None:
    """Downloads every object under an S3 prefix, as SageMaker's S3Prefix means it.

    Args:
        client: boto3's for S3.
        uri: s3://bucket/prefix.
        folder: where to; it is there.
        hidden: whether objects whose path has a part that begins with a dot or an underscore are wanted.

    Raises:
        NoObjects: there are none.
        UserError: they cannot be read, or two cannot lie beside each other in a folder.
    """
    import boto3.exceptions
    import boto3.s3.transfer
    import botocore.exceptions

    bucket, prefix = split_s3(uri)
    # Without threads a Ctrl-C ends it at once.
    in_turn = boto3.s3.transfer.TransferConfig(use_threads=False)
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
        names = names_in_channel(keys, prefix)
        if not hidden:
            names = {name: key for name, key in names.items() if not _is_hidden(name)}
        if not names:
            raise NoObjects(f"{uri} has no objects")
        for name, key in names.items():
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"the object {key!r} in {uri} would land outside {folder}")
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(target), Config=in_turn)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, boto3.exceptions.Boto3Error) as error:
        raise UserError(f"{uri} cannot be read: {error}") from None
    except OSError as error:
        raise UserError(f"{uri} cannot be written to {folder}: {error.strerror or error}") from None


def names_in_channel(keys: Iterable[str], prefix: str) -> dict[str, str]:
    """Path in the channel to key, for the objects under a prefix, as SageMaker and its SDK's local mode lay them out.

    `history` and `history/` are the same folder; `part/prices` stands for all files that begin so, under their names.

    Raises:
        UserError: a key is a file and a folder at once.
    """
    folder = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    names = {
        key.removeprefix(folder) if key.startswith(folder) else key[prefix.rfind("/") + 1 :]: key
        for key in sorted(keys)
    }
    for name, key in names.items():
        for above in map(str, Path(name).parents):
            if above in names:
                raise UserError(
                    f"{names[above]!r} and {key!r} cannot both be in one channel, since {above!r} cannot be a file and "
                    "a folder; remove one, or name a longer prefix"
                )
    return names


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def sample_market(runs: Path, rows: int, instruments: int = 1, *, write: bool) -> tuple[str, str]:
    """A simulated market, or several, in a KYDB under the runs folder; written once, the same for every job.

    Args:
        runs: the runs folder.
        rows: minutes.
        instruments: how many markets.
        write: whether to make it where it is missing.

    Returns:
        Its KYDB URL and key, which is a pattern where there are several.
    """
    url = f"files:/{runs.resolve() / 'kydb'}"
    key = f"/symbols/ml/training_data/SAMPLE_MARKET_{rows}"
    folder = f"/symbols/ml/training_data/SAMPLE_{instruments}_MARKETS_{rows}"
    if write:
        import kydb

        from ml.data.sample_market import sample_market as simulated
        from ml.data.sample_market import sample_universe
        from ml.timeseries import time_series

        db = kydb.connect(url)
        if instruments == 1 and not db.exists(key):
            time_series(db, key).replace(simulated(rows=rows, seed=_SAMPLE_SEED))
        # The last one is written last: where it is, all are.
        if instruments > 1 and not db.exists(f"{folder}/NOISE"):
            for name, market in sample_universe(instruments, rows, _SAMPLE_SEED):
                time_series(db, f"{folder}/{name}").replace(market)
    return url, key if instruments == 1 else f"{folder}/*"
