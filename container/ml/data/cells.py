# pyarrow makes its compute functions when it is imported:
# pyright: reportAttributeAccessIssue=false
"""What a cell of a text file is, and columns of cells as numbers."""

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_INFINITE = r"[+-]?inf(?:inity)?"
_GROUPED = r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?"  # 1,000.50
_DECIMAL_COMMA = r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d+),\d+"  # 100,38 and 1.000,50
_IS_NUMBER = re.compile(rf"{_NUMBER}|{_GROUPED}|{_DECIMAL_COMMA}")

MISSING = ("", "nan", "na", "n/a", "null", "none", "-", "<na>", "#n/a", "nat")  # compared in lower case


def is_number(cell: str) -> bool:
    return bool(_IS_NUMBER.fullmatch(cell.strip()))


class Numbers(NamedTuple):
    """A column as numbers.

    Attributes:
        values: float64, (rows,); NaN where there is none.
        bad: the rows that hold something else than a number; None: no row does.
        written: how, where it is unusual, such as `decimal commas`; empty: plainly.
        hint: what could be meant by the rows that are no numbers; empty: nobody can tell.
    """

    values: np.ndarray
    bad: np.ndarray | None = None
    written: str = ""
    hint: str = ""


def to_numbers(column: pa.ChunkedArray) -> Numbers:
    """A column of any type as numbers; empty cells, `nan` and `null` are NaN.

    Commas are understood where they can mean one thing only: `1,000.50` groups thousands, `100,38` and `1.000,50`
    have decimal commas; `1,000` alone could be either.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return to_numbers(column.cast(kind.value_type))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind):
        return Numbers(column.to_pandas().to_numpy(np.float64, na_value=np.nan))
    if not is_text(kind):
        return Numbers(np.full(len(column), np.nan), np.ones(len(column), bool))
    try:
        return Numbers(pc.cast(column, pa.float64()).to_numpy())
    except pa.ArrowInvalid:
        return _unusual(pc.utf8_trim_whitespace(as_text(column)))


def is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text in any of Arrow's types, as one that all functions take."""
    if pa.types.is_string(column.type):
        return column
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:  # bytes that are not UTF-8
        decoded = [
            [None if cell is None else cell.decode("latin-1") for cell in part.to_pylist()] for part in column.chunks
        ]
        return pa.chunked_array(decoded, pa.string())


def _matching(cells, pattern: str) -> np.ndarray:
    return pc.fill_null(pc.match_substring_regex(cells, f"^(?:{pattern})$"), False).to_numpy()


def _unusual(cells: pa.ChunkedArray) -> Numbers:
    lower = pc.utf8_lower(cells)
    missing = pc.fill_null(pc.is_in(lower, pa.array(MISSING, lower.type)), True).to_numpy()
    plain = _matching(lower, f"{_NUMBER}|{_INFINITE}")
    other = ~(plain | missing)
    commas, written, hint = np.zeros(len(cells), bool), "", ""
    if other.any():
        grouped, decimal = _matching(cells, _GROUPED), _matching(cells, _DECIMAL_COMMA)
        points = pc.fill_null(pc.match_substring(cells, "."), False).to_numpy()
        if not (other & ~grouped).any() and points[plain | other].any():
            commas, written = other, "commas between thousands"
        elif not (other & ~decimal).any() and not points[plain].any() and (points | ~grouped)[other].any():
            commas, written = other, "decimal commas"
        elif (grouped | decimal)[other].any():
            hint = "a comma between thousands or a decimal comma? write 1234.5"
    if written == "decimal commas":
        cells = pc.replace_substring(pc.replace_substring(cells, ".", "") if commas.any() else cells, ",", ".")
    elif written:
        cells = pc.replace_substring(cells, ",", "")
    readable = plain | commas
    # A plus sign is the one thing in these patterns that Arrow does not take.
    cells = pc.replace_substring_regex(cells, r"^\+", "")
    values = pc.cast(pc.if_else(pa.array(readable), _one(cells), None), pa.float64()).to_numpy(zero_copy_only=False)
    bad = ~(readable | missing)
    return Numbers(values.astype(np.float64), bad if bad.any() else None, written, hint)


def _one(cells: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(cells.chunks) if cells.num_chunks != 1 else cells.chunk(0)
