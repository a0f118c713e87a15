"""A model.tar.gz, unpacked without what an archive of a stranger's could do."""

import tarfile
from pathlib import Path

from ml.errors import UserError

_MOST_BYTES = 20_000_000_000  # unpacked; a job's files take three forms of 4 bytes a weight


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive into a folder that is there.

    Raises:
        UserError: it is not one, or has members that would land elsewhere, or too much in it.
        OSError: the folder cannot be written.
    """
    left = _MOST_BYTES
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                left -= member.size
                if left < 0:
                    raise UserError(f"{archive} holds more than {_MOST_BYTES / 1e9:g} GB")
                opened.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive.name} is no whole archive: {' '.join(str(error).split())}") from None
