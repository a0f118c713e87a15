"""Text files with one row a line: what separates the fields, where the rows begin, and their columns.

pyarrow reads the rows, fast and refusing lines of another length. What it cannot tell is found here from the first
lines: encoding, delimiter, lines before the header, header. The delimiter is the one under which most fields are
times or numbers. csv.Sniffer takes the comma of 100,38 for one; DuckDB's sniffer adds 69 MB to the image; CleverCSV
is right as often as this, does not look for the header, and needs three packages.
"""

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv

from ml.data.cells import is_number
from ml.data.times import looks_like_a_time, looks_like_a_time_of_day
from ml.data.unpacking import Content, reading
from ml.errors import UserError, one_line, printable

_HEAD = 1 << 18  # bytes in which everything about a file is found out
_SAMPLE = 100  # lines
_BLOCK = 1 << 20  # bytes read at a time; a line must be shorter
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
_TAKES = 3  # times the text of its columns, what a file takes in memory before it is a history

_SEP = re.compile(r'\ufeff?"?sep=(.)"?', re.IGNORECASE)  # the first line of files made for Excel

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class NoTable(Exception):
    """A file's content is no table of prices; the message says what it looks like."""


def foreseen_lines(content: Content) -> int:
    """About how many lines a text file has, before it is read."""
    head = _begin(content)
    with reading(content.name):
        return int(content.size() * max(1, head.count(b"\n"), head.count(b"\r")) / max(1, len(head)))


class Layout(NamedTuple):
    """How a text file is laid out.

    Attributes:
        delimiter: between fields.
        quote: around fields that may hold a delimiter.
        skipped: lines before the first row, the header's included.
        names: of the columns, as they stand in the header; None: there is no header.
        header_line: number of the header's last line, from 1; 0: there is none.
        width: fields a line.
        sample: the first rows.
    """

    delimiter: str
    quote: str
    skipped: int
    names: list[str] | None
    header_line: int
    width: int
    sample: list[list[str]]


class TextTable:
    """A text file as a table.

    Args:
        content: its bytes.
        room: bytes that its columns may take in memory.

    Raises:
        NoTable: it is no table.
        UserError: it is empty or damaged.
    """

    def __init__(self, content: Content, room: int):
        self.content, self._room = content, room
        head = _begin(content)
        if not head.strip(b"\0 \t\r\n"):
            raise UserError(f"{content.name} is empty; send a whole file")
        self.encoding = _encoding(head)
        text = codecs.getincrementaldecoder(self.encoding)("replace").decode(head)
        lines = re.split(r"\r\n|\n|\r", text)
        if len(head) == _HEAD:
            lines.pop()  # which is cut off
        self._line_end = "\r" if "\n" not in text and "\r" in text else "\n"
        self.layout = _layout(lines)
        self.names, self.sample = self.layout.names, self.layout.sample
        self.width = self.layout.width
        self.kind = f"text with {_NAMES[self.layout.delimiter]}" if self.layout.delimiter != "," else "CSV"
        self.problems = list[str]()

    @property
    def header(self) -> str:
        """The header as it stands in the file."""
        return self.layout.delimiter.join(self.names or [])

    def columns(self, numbers: list[int]) -> list[pa.ChunkedArray]:
        """Columns by number from 0, as text; lines of another length are left out and told in `problems`."""
        body = _Body(self.content, self.encoding, self.layout.skipped, self._line_end)
        names = [str(number) for number in range(self.width)]
        broken = 0

        def count(row) -> str:
            nonlocal broken
            broken += 1
            return "skip"

        batches, size = [], 0
        with reading(self.content.name), body:
            if not body.skip_blank_lines():
                return [pa.chunked_array([], pa.string()) for _ in numbers]
            try:
                reader = pa_csv.open_csv(
                    pa.PythonFile(body, "r"),
                    pa_csv.ReadOptions(use_threads=False, column_names=names, block_size=_BLOCK),
                    pa_csv.ParseOptions(
                        delimiter=self.layout.delimiter, quote_char=self.layout.quote, invalid_row_handler=count
                    ),
                    pa_csv.ConvertOptions(
                        include_columns=[names[number] for number in numbers],
                        column_types=dict.fromkeys(names, pa.string()),
                    ),
                )
                for batch in reader:
                    batches.append(batch)
                    size += batch.nbytes
                    if _TAKES * size > self._room:
                        raise UserError(
                            f"{self.content.name} has more than {sum(map(len, batches)):,} rows, for which there "
                            f"is no memory ({self._room / 1e9:.2f} GB are left to it); use a larger instance"
                        )
            except pa.ArrowInvalid as error:
                if "truncated" in str(error).lower() or "zstd" in str(error).lower():
                    raise
                self._explain(error)
                return [pa.chunked_array([], pa.string()) for _ in numbers]
        table = pa.Table.from_batches(batches, reader.schema)
        if broken or (body.quotes and body.lines != table.num_rows + broken):  # a quote may span lines
            self._find_broken_lines()
        return [table.column(names[number]) for number in numbers]

    def place(self, row: int) -> str:
        """The line of a row, and what it says."""
        good = -1
        for number, text, fields, whole in self._records():
            good += whole and len(fields) == self.width
            if good == row:
                return f'line {number:,} ("{_shown(text)}")'
        return f"row {row + 1:,}"

    def _records(self) -> Iterator[tuple[int, str, list[str], bool]]:
        """Number, text and fields of each line with data, and whether it is one line."""
        with self.content.open() as stream:
            kept = list[str]()

            def lines():
                for line in io.TextIOWrapper(stream, self.encoding, "replace", newline=None):
                    kept.append(line)
                    yield line

            source = lines()
            for _ in range(self.layout.skipped):
                next(source)
            number = self.layout.skipped
            kept.clear()
            csv.field_size_limit(1 << 30)
            for fields in csv.reader(source, delimiter=self.layout.delimiter, quotechar=self.layout.quote):
                first, text = number + 1, "".join(kept)
                number += len(kept)
                whole = len(kept) == 1
                kept.clear()
                if fields:
                    yield first, text.rstrip("\n"), fields, whole

    def _find_broken_lines(self) -> None:
        """Tells of the lines that have too many fields or too few, or a quote that is not closed."""
        broken, spanning = [], []
        for number, text, fields, whole in self._records():
            if not whole:
                spanning.append((number, text))
            elif len(fields) != self.width:
                broken.append((number, text, fields))
        if broken:
            number, text, fields = broken[0]
            where = (
                f"the header (line {self.layout.header_line}) has" if self.layout.header_line else "other lines have"
            )
            more = f"; so do {len(broken) - 1:,} other lines" if len(broken) > 1 else ""
            repeated = fields == self.layout.names
            hint = "; remove the second header" if repeated else _comma_hint(self.layout.delimiter, fields, self.width)
            count = f"{len(fields)} field{'' if len(fields) == 1 else 's'}"
            self.problems.append(
                f'line {number:,} has {count} where {where} {self.width}: "{_shown(text)}"{hint}{more}'
            )
        if spanning:
            number, text = spanning[0]
            self.problems.append(
                f'line {number:,} opens a quote that it does not close: "{_shown(text)}"; close or remove it'
            )

    def _explain(self, error: pa.ArrowInvalid) -> None:
        for number, text, _, _ in self._records():
            if len(text) >= _BLOCK:
                self.problems.append(f"line {number:,} has {len(text):,} characters; is the file one of text?")
                return
        self.problems.append(
            f"it cannot be split into lines and fields ({one_line(error)[:100]}); write it anew as CSV"
        )


class _Body:
    """The rows of a text file as UTF-8, for pyarrow; counts lines and quotes on the way."""

    def __init__(self, content: Content, encoding: str, skipped: int, line_end: str):
        self._stream = content.open()
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._may_pass = encoding == "utf-8"
        self._skipped, self._end = skipped, line_end.encode()
        self._ready, self._ended, self.closed = b"", True, False
        self.quotes = self._line_ends = 0

    def read(self, size: int = -1) -> bytes:
        piece, self._ready = self._ready or self._next(size), b""
        return piece

    @property
    def lines(self) -> int:
        """How many lines were read, the last one included where it has no line end."""
        return self._line_ends + (not self._ended)

    def skip_blank_lines(self) -> bool:
        """Passes over blocks without a row; returns whether there is one behind them."""
        while not self._ready.strip():
            self._ready = self._next(_BLOCK)
            if not self._ready:
                return False
        return True

    def _next(self, size: int) -> bytes:
        while piece := self._stream.read(size):
            if not (self._may_pass and piece.isascii() and not self._decoder.getstate()[0]):
                piece = self._decoder.decode(piece).encode()  # bytes that are no UTF-8 become a sign of their own
            while self._skipped and (at := piece.find(self._end)) >= 0:
                piece, self._skipped = piece[at + 1 :], self._skipped - 1
            if self._skipped or not piece:
                continue
            self._line_ends += piece.count(self._end)
            self._ended = piece.endswith(self._end)
            self.quotes += piece.count(b'"') + piece.count(b"'")
            return piece
        return b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()


def _begin(content: Content, most: int = _HEAD) -> bytes:
    """The first bytes, as many as a stream gives."""
    head = b""
    with reading(content.name), content.open() as stream:
        while len(head) < most and (more := stream.read(most - len(head))):
            head += more
    return head


def _encoding(head: bytes) -> str:
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return encoding
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # every other byte of ASCII text is zero
        if head[first:400:2].strip(b"\0") == b"" and head[1 - first : 400 : 2].count(0) == 0 and len(head) > 3:
            return encoding
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "latin-1"  # in which every byte is a character; times and prices are ASCII in all such encodings
    return "utf-8"


def _typed(cell: str) -> bool:
    return is_number(cell) or looks_like_a_time(cell) or looks_like_a_time_of_day(cell)


def _split(lines: list[str], delimiter: str, quote: str) -> list[list[str]]:
    """Fields of each line, so that a quote which is not closed spoils one line only."""
    rows = []
    for line in lines:
        try:
            rows.append(next(csv.reader([line], delimiter=delimiter, quotechar=quote), []))
        except csv.Error:
            rows.append([line])
    return rows


def _layout(lines: list[str]) -> Layout:
    told = _SEP.fullmatch(lines[0]) if lines else None
    sample = lines[:_SAMPLE]
    quote = "'" if not any('"' in line for line in sample) and any(line.startswith("'") for line in sample) else '"'
    best, rows, typed = 0.0, list[list[str]](), list[int]()
    delimiter = ","
    for candidate in [told[1]] if told else _NAMES:
        split = _split(sample, candidate, quote)
        counts = [sum(map(_typed, fields)) if len(fields) > 1 else 0 for fields in split]
        if candidate == " ":  # prose has numbers too
            counts = [
                count if 2 * count >= len(fields) > 1 < count else 0
                for count, fields in zip(counts, split, strict=True)
            ]
        score = sum(count / len(fields) for count, fields in zip(counts, split, strict=True) if count)
        if score > best or not rows:
            best, delimiter, rows, typed = max(best, score), candidate, split, counts
    if delimiter not in _NAMES:
        raise NoTable(f"its first line says sep={delimiter}; use one of , ; tab |")
    begin = next((at for at, count in enumerate(typed) if count), None)
    if begin is None:
        return _header_alone(sample, quote, bool(told))
    return _with_header(lines, rows, typed, begin, delimiter, quote)


def _with_header(lines, rows, typed, begin: int, delimiter: str, quote: str) -> Layout:
    def may_be_header(at: int) -> bool:
        return at >= 0 and len(rows[at]) > 1 and not typed[at] and not _SEP.fullmatch(lines[at])

    data = [fields for fields, count in zip(rows[begin:], typed[begin:], strict=True) if count]
    width = Counter(map(len, data)).most_common(1)[0][0]
    header = begin - 1
    while header >= 0 and not lines[header].strip():
        header -= 1
    if not may_be_header(header):
        return Layout(delimiter, quote, begin, None, 0, width, data)
    names = [name.strip() for name in rows[header]]
    if lines[header].startswith("#"):
        names[0] = names[0].lstrip("# ")
    first = header
    if not any(names[1:]):  # yfinance names the columns above the index
        while may_be_header(first - 1) and len(rows[first - 1]) == len(names):
            first -= 1
        cells = zip(*rows[first : header + 1], strict=True)
        names = [" / ".join(dict.fromkeys(cell.strip() for cell in column if cell.strip())) for column in cells]
    if width == len(names) + 1 and all(len(fields) == width and not fields[-1] for fields in data):
        names.append("")  # every row ends with a delimiter
    return Layout(
        delimiter, quote, begin, names, header + 1, len(names), [row for row in data if len(row) == len(names)]
    )


def _header_alone(lines: list[str], quote: str, told: bool) -> Layout:
    """The layout of a file whose lines hold neither a time nor a number."""
    filled = [at for at, line in enumerate(lines) if line.strip() and not (told and at == 0)]
    if len(filled) > 3 or not filled:
        raise NoTable(f'no line of it has a time and a price; it begins "{_shown(next(filter(str.strip, lines), ""))}"')
    at = filled[-1]
    delimiter = max(_NAMES, key=lambda each: len(_split([lines[at]], each, quote)[0]) if each != " " else 0)
    names = [name.strip() for name in _split([lines[at]], delimiter, quote)[0]]
    if len(names) < 2:
        raise NoTable(f'no line of it has a time and a price; it begins "{_shown(lines[filled[0]])}"')
    return Layout(delimiter, quote, at + 1, names, at + 1, len(names), [])


def _comma_hint(delimiter: str, fields: list[str], width: int) -> str:
    """What mends a line with another number of fields: what a comma inside a number could be, where it made them."""
    if delimiter != "," or len(fields) <= width:
        return "; mend or remove it"
    split = [
        bool(re.fullmatch(r" *\d{1,3}", one) and re.fullmatch(r"\d{3}\.\d+ *", two))
        for one, two in itertools.pairwise(fields)
    ]
    if sum(split) == len(fields) - width:
        return "; a comma between thousands? write 1000.50"
    if all(field.strip().isdigit() for field in fields[1:]):
        return "; a decimal comma? write 100.38, or separate the fields by ; or tabs"
    return "; mend or remove it"


def _shown(text: str, most: int = 80) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[:most]}..."
