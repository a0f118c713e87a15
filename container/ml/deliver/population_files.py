"""What a population leaves beside the model: its leaderboard, and every network's predictions."""

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml.deliver.results import MemberEntry
from ml.errors import UserError
from ml.files import write_whole

LEADERBOARD_FILE, PREDICTIONS_FILE = "leaderboard.csv", "population.parquet"


def write_leaderboard(folder: Path, ranked: Sequence[MemberEntry]) -> None:
    """Writes leaderboard.csv: a row a network, its settings and the metrics of its best epoch.

    Args:
        folder: output/data.
        ranked: the networks, the best first.

    Raises:
        UserError: it cannot be written.
    """
    varied, metrics = ({name: None for entry in ranked for name in entry[key]} for key in ("settings", "metrics"))
    rows: list[list[Any]] = [["rank", "member", "status", "epochs", "best_epoch", *varied, *metrics]]
    for rank, entry in enumerate(ranked, 1):
        own = [entry["settings"].get(name) for name in varied] + [entry["metrics"].get(name) for name in metrics]
        rows.append([rank, entry["member"], entry["status"], entry["epochs"], entry["best_epoch"], *own])
    text = io.StringIO(newline="")
    csv.writer(text).writerows([map(_cell, row) for row in rows])
    _write(folder / LEADERBOARD_FILE, text.getvalue())


def write_predictions(
    folder: Path, held_out: pd.DataFrame, rows: np.ndarray, members: Sequence[int], probabilities: np.ndarray
) -> None:
    """Writes population.parquet: of every network the probability of buy at each held-out row with a window.

    Columns: `member`, `time`, `symbol` where there are several instruments, and `probability`, float32. All networks
    are on the same rows; one without weights has no number there.

    Args:
        folder: output/data.
        held_out: the validation rows, indexed by time.
        rows: at which a window ends, (windows,).
        members: numbers of the networks.
        probabilities: (windows, networks).

    Raises:
        UserError: it cannot be written.
    """
    frame = held_out.iloc[rows]
    shared = {"time": pa.array(pd.DatetimeIndex(frame.index))}
    if "symbol" in frame:
        shared["symbol"] = pa.array(frame["symbol"].astype(str)).dictionary_encode()

    def table(member: int, probability: np.ndarray) -> pa.Table:
        columns = {"member": pa.array(np.full(len(rows), member, np.int32)), **shared}
        return pa.table(columns | {"probability": pa.array(np.ascontiguousarray(probability), from_pandas=True)})

    content = io.BytesIO()
    first, *others = (functools.partial(table, *own) for own in zip(members, probabilities.T, strict=True))
    with pq.ParquetWriter(content, first().schema) as writer:
        for make in (first, *others):  # a network at a time, whose rows are larger than their file
            writer.write_table(make())
    _write(folder / PREDICTIONS_FILE, content.getvalue())


def _cell(value: Any) -> str:
    """A cell's text; text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _write(path: Path, content: bytes | str) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
