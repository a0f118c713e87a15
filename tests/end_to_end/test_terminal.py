"""A job's lines on a terminal, where a progress bar is drawn between them."""

import os
import pty
import re
import signal
import subprocess

import pytest

from job_folder import SMALL, JobFolder
from ml.data.sample_market import sample_market


def shown_on_a_terminal(job, stop_at=None):
    """What a job writes to a terminal; a SIGTERM is sent when `stop_at` was written."""
    command, environment = job.command(environment={})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment | {"COLUMNS": "100"}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux' way to say that the other end is closed
            break
        written += part
        if stop_at and stop_at in written:
            process.send_signal(signal.SIGTERM)
            stop_at = None
    os.close(ours)
    assert process.wait() == 0, written[-2000:]
    return written.decode()


def screen_of(written):
    """The lines that are left on a terminal that knows \\r, \\b and "clear to the end of the line"."""
    lines, column = [""], 0
    for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[\r\n\b]|[^\x1b\r\n\b]+", written):
        if part == "\n":
            lines.append("")
        elif part == "\r":
            column = 0
        elif part == "\b":
            column = max(0, column - 1)
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif not part.startswith("\x1b"):
            lines[-1] = lines[-1][:column].ljust(column) + part + lines[-1][column + len(part) :]
            column += len(part)
    return lines


@pytest.fixture(scope="module")
def job_of(tmp_path_factory):
    def make(**settings):
        folder = tmp_path_factory.mktemp("terminal") / "ml"
        return JobFolder(folder, SMALL | settings, channel={"p.parquet": sample_market(rows=6000, seed=3)})

    return make


def test_a_bar_gives_way_to_every_line(job_of):
    lines = screen_of(shown_on_a_terminal(job_of()))
    for number, start in enumerate(("running: step 1 of 10 done", "epoch=1/2 loss=", "epoch=2/2 loss=", "report: ")):
        assert [line for line in lines if line.startswith(start)], (number, lines)
    assert [line for line in lines if re.match(r"10/10 .*(step)?$", line)], lines  # the bar itself is there


def test_a_bar_gives_way_to_a_signals_line(job_of):
    lines = screen_of(shown_on_a_terminal(job_of(epochs=100_000, batch_size=1), stop_at=b"running: step"))
    assert "received SIGTERM: stopping as soon as the step under way ends" in lines
    assert [line for line in lines if line.startswith("stopped: ")], lines
