import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml import log
from ml.log import quoted, say
from ml.metrics import METRICS, metric_line

CONTAINER = Path(__file__).resolve().parents[2] / "container"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/ml/x best_val_loss=0.000001 accuracy=1.0 .h5", r"/ml/x best_val_loss\x3d0.000001 accuracy\x3d1.0 .h5"),
        ("loss=1", r"loss\x3d1"),
        ("a\nval_loss=1\r\n\x9b\u202e", r"a val_loss\x3d1 \x9b\u202e"),
        ("batch_size=512 and loss = 3, xloss=2", "batch_size=512 and loss = 3, xloss=2"),
    ],
)
def test_text_from_outside_is_one_line_without_metrics(text, shown):
    assert quoted(text) == shown


@given(
    st.text(), st.sampled_from(sorted(METRICS)), st.sampled_from([" ", "\n", "\x1f", "\u2028", "\xa0", ""]), st.text()
)
def test_no_metric_is_found_in_any_text(before, name, blank, after):
    found = quoted(f"{before}{blank}{name}={after}")
    assert found.isprintable()
    assert not [metric for metric in METRICS.values() if re.search(metric.regex, found)]


def test_a_line_of_metrics_is_printed_as_it_is(capsys):
    say(line := metric_line(1, 2, {"loss": 0.5}), metrics=True)
    say("published to x loss=1")
    assert capsys.readouterr().out == f"{line}\npublished to x loss\\x3d1\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/strace").exists(), reason="strace is not installed (apt-get install strace)")
def test_a_line_is_one_write(tmp_path):
    trace = tmp_path / "trace"
    subprocess.run(
        [
            "strace",
            "-e",
            "trace=write",
            "-o",
            trace,
            sys.executable,
            "-u",
            "-c",
            "from ml.log import say; say('hello')",
        ],
        env=os.environ | {"PYTHONPATH": str(CONTAINER)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert r'write(1, "hello\n", 6)' in trace.read_text()


def test_a_line_clears_a_progress_bar_on_a_terminal(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        terminal.write("12/100 ====")
        monkeypatch.setattr(log, "bar_shown", True)
        say("received SIGTERM", stream=terminal)
        assert os.read(ours, 1000) == b"12/100 ====\r\x1b[Kreceived SIGTERM\r\n"
        monkeypatch.setattr(log, "bar_shown", False)
        say("stopped", stream=terminal)
        assert os.read(ours, 1000) == b"stopped\r\n"
    os.close(ours)
    say("nobody clears a file", stream=(file := io.StringIO()))
    assert file.getvalue() == "nobody clears a file\n"


IN_A_HANDLER = """
import os, signal, sys
from ml.log import say
signal.signal(signal.SIGALRM, lambda *_: say("told by the handler"))
signal.setitimer(signal.ITIMER_REAL, 0.3)
say("x" * 300_000)
"""


@pytest.mark.slow
def test_a_signal_handler_may_speak_while_a_line_waits_for_its_reader():
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_HANDLER],
        env=os.environ | {"PYTHONPATH": str(CONTAINER), "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with pytest.raises(subprocess.TimeoutExpired):  # the pipe is full, and the signal arrives
        process.wait(1)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.count(b"told by the handler\n") == 1 and output.count(b"x") == 300_000
