"""Small price files as people have them, and channels of them."""

import json
import runpy
import sys
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from ml.data.columns import Reading
from ml.data.sources import read_channel

ROWS = 90


def prices(rows=ROWS, start="2024-01-20", step="min"):
    """Times (UTC, without a zone) and prices to two places."""
    i = np.arange(rows)
    times = pd.date_range(start, periods=rows, freq=step, unit="ns")
    return pd.DataFrame({"time": times, "price": np.round(100 + 0.01 * (i * 37 % 101), 2)})


def lines(frame, form, header="", end="\n"):
    """A text file with a line a row, made by `form(time, price)`."""
    body = [form(time, f"{price:.2f}") for time, price in zip(frame["time"], frame["price"], strict=True)]
    return end.join([*([header] if header else []), *body, ""])


def iso(frame, header="dt,mid"):
    """The plainest CSV file."""
    return lines(frame, lambda time, price: f"{time.isoformat()}Z,{price}", header)


def channel(tmp_path, files):
    """A folder with files: name to frame, text or bytes."""
    folder = tmp_path / "train"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path) if name.endswith(".parquet") else content.to_csv(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(tmp_path, files, start=None, end=None, **how):
    """The history in a channel of such files."""
    files = files if isinstance(files, dict) else {"p.csv": files}
    return read_channel(channel(tmp_path, files), start, end, Reading(**how))


def assert_holds(history, frame):
    """The history has these times and prices exactly."""
    assert history.frame.index.tz_localize(None).equals(pd.DatetimeIndex(frame["time"]))
    np.testing.assert_array_equal(history.frame["mid"], frame["price"])


def written_cases(shared, folder):
    """Writes the price files of ../shared/cases into a folder; returns it, and what each case must be."""
    script = shared / "cases/price_cases.py"
    if not script.is_file():
        pytest.skip(f"{script} is absent")
    with mock.patch.object(sys, "argv", [str(script), str(folder)]):
        runpy.run_path(str(script), run_name="__main__")
    return folder, json.loads((folder / "cases.json").read_text())
