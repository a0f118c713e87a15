"""The files of a channel: one list for the job, for the upload and for the copies of local and Docker jobs.

Only the standard library is used, so that the launcher can list a folder before anything heavy is imported.
"""

import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml.errors import UserError, printable

_SECONDS_BETWEEN_LINES = 5.0

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ChannelFile(NamedTuple):
    """A regular file of a channel.

    Attributes:
        name: where it lies in the channel, parts joined by `/`, links as they are called there.
        path: where its content is; links are resolved.
    """

    name: str
    path: Path


class Listing(NamedTuple):
    """What a channel holds.

    Attributes:
        files: sorted by name, each real file once.
        left_out: names of what is no regular file, with what it is, such as `train_0 (a pipe)`.
    """

    files: list[ChannelFile]
    left_out: list[str]


def list_channel(root: Path, say: Callable[[str], None] = lambda line: None) -> Listing:
    """The regular files below a folder, or the one file that `root` is.

    Links are followed, also to files and folders elsewhere: they are the user's own, and inside a container only
    what is mounted can be reached. A file or folder that is reached twice is listed once, under its own name rather
    than a link's, so links to `.` do not loop. What begins with a dot or an underscore (`.git`, `_SUCCESS`,
    `_temporary/`) is left out wherever it lies, without a word.

    Args:
        root: the channel's folder, or a file.
        say: is told every few seconds how many files were found, where there are very many.

    Raises:
        UserError: there is no such folder; a link leads nowhere, or to a folder that holds the channel; or a folder
            may not be read.
    """
    try:
        if root.is_file():
            return Listing([ChannelFile(root.name, root.resolve())], [])
        if not root.is_dir():
            raise UserError(f"there is no file or folder {root}")
        top = root.resolve(strict=True)
    except OSError as error:
        raise UserError(f"{root} cannot be read: {error.strerror}") from None
    walk = _Walk(root, top, say)
    # Links wait until everything else is listed, so that what is reached both ways keeps its own name.
    walk.folder(top, "")
    while walk.links:
        walk.links.sort(reverse=True)
        walk.link(*walk.links.pop())
    return Listing(sorted(walk.files), sorted(walk.left_out))


def list_together(roots: Sequence[Path], say: Callable[[str], None] = lambda line: None) -> Listing:
    """The files of several files and folders that become one channel.

    Raises:
        UserError: one cannot be listed, or two different files would have the same name in the channel.
    """
    found, left_out = dict[str, ChannelFile](), list[str]()
    for root in roots:
        listing = list_channel(root, say)
        left_out += listing.left_out
        for file in listing.files:
            other = found.setdefault(file.name, file)
            if other.path != file.path:
                raise UserError(
                    f"{printable(str(other.path))} and {printable(str(file.path))} would both be "
                    f"{printable(file.name)} in the channel; rename one, or name the folder above both"
                )
    return Listing(sorted(found.values()), sorted(set(left_out)))


class _Walk:
    def __init__(self, root: Path, top: Path, say: Callable[[str], None]):
        self.root, self.top, self.say = root, top, say
        self.files, self.left_out, self.links = list[ChannelFile](), list[str](), list[tuple[str, Path]]()
        self._seen = set[str]()
        self._told = time.monotonic()

    def folder(self, folder: Path, name: str) -> None:
        """Lists a real folder and those below it; remembers the links."""
        waiting = [(folder, name)]
        while waiting:
            folder, name = waiting.pop()
            if str(folder) in self._seen:
                continue
            self._seen.add(str(folder))
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                raise UserError(f"{self._shown(name)} cannot be read: {error.strerror}") from None
            for entry in entries:
                if entry.name.startswith((".", "_")):
                    continue
                inner = f"{name}/{entry.name}" if name else entry.name
                if entry.is_symlink():
                    self.links.append((inner, Path(entry.path)))
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), inner))
                else:
                    self.file(Path(entry.path), inner)

    def file(self, path: Path, name: str) -> None:
        """Lists a file, unless it is no regular one."""
        if str(path) in self._seen:
            return
        self._seen.add(str(path))
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UserError(f"{self._shown(name)} cannot be read: {error.strerror}") from None
        if stat.S_ISREG(mode):
            self.files.append(ChannelFile(name, path))
        else:
            kind = next((words for matches, words in _KINDS if matches(mode)), "no regular file")
            self.left_out.append(f"{printable(name)} ({kind})")
        if time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            self.say(f"{self.root}: {len(self.files):,} files so far")

    def link(self, name: str, path: Path) -> None:
        """Lists what a link leads to."""
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links that lead to each other, before Python 3.13
            leads = printable(str(path.readlink()))
            raise UserError(
                f"{self._shown(name)} is a link to {leads}, which is not there; mend or remove it"
            ) from None
        if target != self.top and self.top.is_relative_to(target):
            raise UserError(
                f"{self._shown(name)} is a link to {target}, the folder that the channel lies in; remove it"
            )
        if target.is_dir():
            self.folder(target, name)
        else:
            self.file(target, name)

    def _shown(self, name: str) -> str:
        return printable(str(self.root / name))
