"""What is inside a file: compression is taken off, archives are opened, whatever the name says."""

import bz2
import contextlib
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from ml.errors import UserError, one_line

_LAYERS = 3  # of compression in each other, such as a .csv.gz in a .zip
_HEAD = 512
_ESTIMATED, _ESTIMATED_MOST = 1 << 22, 1 << 28  # bytes unpacked to estimate the size of all

# What reading raises where a compressed file is cut off or damaged.
DAMAGED = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    pa.ArrowException,
    RuntimeError,  # an encrypted member of a zip
    NotImplementedError,  # a zip's method that Python does not have
)

# By the bytes that a file begins with.
_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[BinaryIO], BinaryIO]], ...] = (
    (b"\x1f\x8b", "gzip", lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw))),
    (b"BZh", "bzip2", lambda raw: cast(BinaryIO, bz2.BZ2File(raw))),
    (b"\xfd7zXZ\0", "xz", lambda raw: cast(BinaryIO, lzma.LZMAFile(raw))),  # noqa: SIM115 - its caller closes it
    (b"\x28\xb5\x2f\xfd", "zstd", lambda raw: cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))),
)
_OTHERS = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook or another Office file; save it as CSV"),
    (b"\x89HDF", "an HDF5 file; write it as Parquet: pandas.read_hdf(name).to_parquet(...)"),
    (b"SQLite format 3", "an SQLite database; write its table as CSV or Parquet"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"%PDF", "a PDF document; prices are read from CSV, Parquet, Feather and JSON files"),
    (b"\x80\x04\x95", "a pickle, which is code; write it as Parquet: pandas.read_pickle(name).to_parquet(...)"),
    (b"\x80\x05\x95", "a pickle, which is code; write it as Parquet: pandas.read_pickle(name).to_parquet(...)"),
    (b"\x93NUMPY", "a NumPy array; write it as CSV or Parquet"),
)


class Content(NamedTuple):
    """The bytes of one table: those of a file, of what it is compressed from, or of a member of an archive.

    Attributes:
        name: of the file in its channel, and of the member behind it: `prices.zip/2020.csv`.
        open: a new stream of the bytes.
        packing: what was taken off, the outermost first.
        head: the first bytes.
        plain: the file on disk, where nothing was taken off.
        size: tells about how many bytes there are, from the first ones where a whole file would have to be read.
    """

    name: str
    open: Callable[[], BinaryIO]
    packing: tuple[str, ...]
    head: bytes
    plain: Path | None
    size: Callable[[], int]

    def read(self, most: int) -> bytes:
        """All of it.

        Raises:
            UserError: it is longer than `most`, or damaged.
        """
        with reading(self.name), self.open() as stream:
            pieces, size = [], 0
            while piece := stream.read(1 << 20):
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    raise UserError(
                        f"{self.name} unpacks to more than {most / 1e9:.2f} GB, for which there is no memory; "
                        "use a larger instance or smaller files"
                    )
        return b"".join(pieces)


@contextlib.contextmanager
def reading(name: str):
    """Turns what a damaged file raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except DAMAGED as error:
        if isinstance(error, RuntimeError) and "encrypted" in str(error):
            why = "is encrypted; unpack it"
        elif isinstance(error, OSError) and error.errno:
            why = f"cannot be read: {error.strerror}"
        else:
            why = f"is cut off or damaged ({one_line(error)[:120]}); send the whole file again"
        raise UserError(f"{name} {why}") from None


def contents(name: str, path: Path) -> Iterator[Content]:
    """What a file holds: itself, or what is packed in it; members of archives in the order of their names.

    Raises:
        UserError: it is damaged, or of a kind that is known and cannot be read.
    """
    return _unpacked(name, lambda: cast(BinaryIO, path.open("rb")), (), path, lambda: path.stat().st_size)


def _unpacked(
    name: str, opened: Callable[[], BinaryIO], packing: tuple[str, ...], plain: Path | None, size: Callable[[], int]
) -> Iterator[Content]:
    with reading(name), opened() as stream:
        head = stream.read(_HEAD)
    for start, what in _OTHERS:
        if head.startswith(start):
            raise UserError(f"{name} is {what}")
    if head[257:262] == b"ustar":
        raise UserError(f"{name} is a tar archive; unpack it")
    for start, kind, unpack in _COMPRESSIONS:
        if head.startswith(start):
            if len(packing) == _LAYERS:
                raise UserError(f"{name} is compressed more than {_LAYERS} times over; unpack it")
            layer = _Layer(opened, unpack, size)
            yield from _unpacked(name, layer.open, (*packing, kind), None, layer.size)
            return
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if plain is None:
            raise UserError(f"{name} is an archive in an archive; unpack it")
        yield from _members(name, plain)
        return
    yield Content(name, opened, packing, head, plain, size)


class _Layer(NamedTuple):
    """Compression around some bytes."""

    opened: Callable[[], BinaryIO]
    unpack: Callable[[BinaryIO], BinaryIO]
    packed_size: Callable[[], int]

    def open(self) -> BinaryIO:
        return self.unpack(self.opened())

    def size(self) -> int:
        """About how many bytes there are."""
        whole, size = self.packed_size(), 0
        with self.opened() as packed:
            stream = self.unpack(packed)
            while size < _ESTIMATED_MOST:
                piece = len(stream.read(_ESTIMATED))
                size += piece
                if piece < _ESTIMATED:
                    return size
                if packed.tell() < whole / 2:
                    return int(size * whole / packed.tell())
        return size


def _members(name: str, path: Path) -> Iterator[Content]:
    def opener(member: str) -> Callable[[], BinaryIO]:
        return lambda: cast(BinaryIO, zipfile.ZipFile(path).open(member))

    with reading(name), zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    if "[Content_Types].xml" in sizes:
        raise UserError(f"{name} is an Excel workbook or another Office file; save it as CSV")
    members = [
        member
        for member in sorted(sizes)
        if not member.endswith("/") and not any(part.startswith((".", "_")) for part in member.split("/"))
    ]
    if not members:
        raise UserError(f"{name} is an archive without files")
    for member in members:
        yield from _unpacked(f"{name}/{member}", opener(member), ("zip",), None, lambda member=member: sizes[member])
