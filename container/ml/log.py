"""The job's log: one line in one write, and no metric in it that the job did not measure.

SageMaker reads metrics from the log by regular expressions, so text from outside (keys, file names, exception
messages) must not be able to look like one.
"""

import contextlib
import os
import re
import sys
from typing import TextIO

from ml.errors import printable
from ml.metrics import METRICS

# Whoever draws a progress bar on the terminal sets this while the bar is there; the next line then clears it.
bar_shown = False

_CLEAR = "\r\x1b[K"
_METRIC = re.compile(rf"(?<!\S)({'|'.join(METRICS)})=(?=\S)")


def say(line: str, *, metrics: bool = False, stream: TextIO | None = None) -> None:
    """Prints one line in one write, so that no other process's line gets between it and its end.

    Args:
        line: the text; as `quoted` gives it back, unless it is a line of metrics.
        metrics: whether it is a line of `metric_line` or `performance_line`, which SageMaker is to read.
        stream: where to; None: standard output.
    """
    out = stream or sys.stdout
    text = (_CLEAR if bar_shown and out.isatty() else "") + (line if metrics else quoted(line)) + "\n"
    try:
        out.write(text)
        out.flush()
    except RuntimeError:  # in a signal handler that came while the stream was being written to
        with contextlib.suppress(OSError):
            os.write(out.fileno(), text.encode("utf-8", "backslashreplace"))


def quoted(text: str) -> str:
    r"""Text as one printable line in which no metric is found: `loss=1` becomes `loss\x3d1`; its indentation stays."""
    return " " * (len(text) - len(text.lstrip(" "))) + _METRIC.sub(r"\1\\x3d", printable(text))
