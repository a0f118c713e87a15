"""What a failed job leaves: a file for SageMaker, one last line, and no metric that it did not measure."""

import re

import pytest

from ml.errors import UserError
from ml.metrics import METRICS
from ml.platform.failure import JobFailed, failures_reported


@pytest.mark.parametrize("kind", [UserError, RuntimeError])
def test_no_message_is_taken_for_a_metric_wherever_it_is_printed(tmp_path, capsys, kind):
    with pytest.raises(JobFailed) as failed, failures_reported(tmp_path):
        raise kind("received /x accuracy=1.0 .h5\nval_loss=0.1 \x1b[2J")
    output = capsys.readouterr().err + str(failed.value)  # which SageMaker's toolkit logs
    assert not [name for name, metric in METRICS.items() if re.search(metric.regex, output, re.MULTILINE)]
    assert r"accuracy\x3d1.0" in output and "\x1b" not in output
    assert "accuracy=1.0" in (tmp_path / "output/failure").read_text()


def test_a_fault_of_ours_keeps_its_traceback(tmp_path, capsys):
    with pytest.raises(JobFailed), failures_reported(tmp_path):
        raise RuntimeError("broken")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[1].startswith('  File "')
    assert lines[-2:] == ["RuntimeError: broken", "error: RuntimeError: broken"]
