"""Text from outside is shown on a terminal and never obeyed by it."""

import json
import os
import pty
import re
import subprocess

import pytest

from launching import LAUNCH

ACTING = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\u202egnirts\u2066 [/b] [red]"
LEFT = re.compile("\x1b\\]|\x1b\\[2J|\x07|\x9b|\u202e|\u2066")  # what must not reach the terminal


@pytest.fixture
def runs(tmp_path):
    """A runs folder whose job was collected from somebody else's machine, in a path that looks like markup."""
    folder = tmp_path / "[" / "b]%41?" / "one"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.keras").touch()
    (folder / ".lock").touch()
    (folder / "job.log").write_text(f"epoch=1/2 {ACTING}\n")
    parameters = {"model_key": "/m/[/x].h5", "model_db": ACTING}
    record = {"TrainingJobName": "one", "TrainingJobStatus": "Completed", "CreationTime": "2026-01-01T00:00:00+00:00"}
    record |= {"HyperParameters": parameters, "AlgorithmSpecification": {"MetricDefinitions": []}}
    (folder / "training_job.json").write_text(json.dumps(record))
    failed = folder.parent / "failed" / "training_job.json"
    failed.parent.mkdir()
    failed.write_text(json.dumps(record | {"TrainingJobStatus": "Failed", "FailureReason": ACTING}))
    (failed.parent / ".lock").touch()
    metrics = {"best": {"val_loss": ACTING, ACTING: 1, "loss": None, "accuracy": [{}]}, "best_epoch": ACTING}
    metrics |= {"epochs": [], "published": True, "folds": [{}]}
    metrics |= {"performance": {"verdict": ACTING, "metrics": {"val_auc": "x", "val_pnl": {}}}}
    (folder / "model" / "metrics.json").write_text(json.dumps(metrics))
    return folder.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("status one", r"\x1b]52"),
        ("logs one", r"\u202egnirts"),
        ("list", "Completed"),
        ("status failed", r"\x1b]52"),
        ("status none --on local", "there is no job none"),
    ],
)
def test_nothing_that_a_terminal_would_obey_reaches_it(runs, command, shown):
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [*LAUNCH, *command.split(), "--runs", str(runs)], stdin=subprocess.DEVNULL, stdout=inside, stderr=inside
    )
    os.close(inside)
    text = b""
    while True:
        try:
            text += (chunk := os.read(terminal, 65536))
        except OSError:  # the other end was closed
            break
        if not chunk:
            break
    os.close(terminal)
    process.wait(timeout=30)
    text = text.decode()
    assert shown in text
    assert not LEFT.search(text)
    assert "Traceback" not in text and "fault of the launcher" not in text
