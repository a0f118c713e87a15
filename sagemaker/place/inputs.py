"""What a job on this machine reads: channels brought into its folder, and a simulated market in a KYDB."""

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml.errors import UserError
from request import local_path

_SAMPLE_SEED = 1


def bring_channel(uri: str, folder: Path) -> None:
    """Puts the files of a channel where the job reads them.

    Args:
        uri: file:///... of a file or folder, or s3://bucket/prefix.
        folder: input/data/<channel>; made here.

    Raises:
        UserError: there is nothing at the URI, or it cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if uri.startswith("s3://"):
        _download(uri, folder)
        return
    source = local_path(uri)
    try:
        if source.is_dir():
            shutil.copytree(source, folder, copy_function=_link_or_copy, dirs_exist_ok=True)
        else:
            _link_or_copy(source, folder / source.name)
    except (OSError, shutil.Error) as error:
        raise UserError(f"the channel's {source} cannot be read: {error}") from None


def _link_or_copy(source: Path | str, target: Path | str) -> None:
    """A hard link costs nothing and is a plain file inside a container, which a symbolic link is not."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system, or a file of somebody else's
        shutil.copy2(source, target)


def _download(uri: str, folder: Path) -> None:
    """Every object under an S3 prefix, as SageMaker's S3Prefix means it."""
    import boto3
    import botocore.exceptions

    parts = urlsplit(uri)
    prefix = parts.path.lstrip("/")
    try:
        resource: Any = boto3.resource("s3")  # made at run time, so no type checker knows it
        bucket = resource.Bucket(parts.netloc)
        keys = [item.key for item in bucket.objects.filter(Prefix=prefix) if not item.key.endswith("/")]
        if not keys:
            raise UserError(f"the channel's {uri} has no objects")
        for key in keys:
            target = folder / key[prefix.rfind("/") + 1 :]
            if not target.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"the channel's object {key!r} would land outside {folder}")
            target.parent.mkdir(parents=True, exist_ok=True)
            bucket.download_file(key, str(target))
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise UserError(f"the channel's {uri} cannot be read: {error}") from None


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
