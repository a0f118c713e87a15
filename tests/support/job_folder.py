"""Jobs on folders laid out like /opt/ml, as SageMaker starts them."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

TRAIN = Path(__file__).resolve().parents[2] / "container/bin/train"
SMALL = {"lookback": 60, "nodes": 16, "epochs": 2, "batch_size": 512, "test_fraction": 0}


class JobFolder:
    """A folder laid out as SageMaker lays out /opt/ml, and the job on it, as a process or as a container.

    Args:
        base: the folder; made here.
        hyperparameters: name to value.
        channel: files of the channel `train`, name to frame or bytes; None: no channel.
        hosts: host names.
        instance_type: of this host.
        checkpoints: whether the job has a checkpoints folder.
        image: runs as a container of it; None: as a process.
    """

    def __init__(
        self,
        base,
        hyperparameters,
        *,
        channel=None,
        hosts=("algo-1",),
        instance_type="ml.c7i.large",
        checkpoints=False,
        image=None,
    ):
        self.base, self.image = base, image
        config = base / "input/config"
        for folder in (config, base / "model", base / "output/data"):
            folder.mkdir(parents=True)
        hyperparameters = {name: str(value) for name, value in hyperparameters.items()}
        (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
        resources = {"current_host": hosts[0], "hosts": list(hosts), "current_instance_type": instance_type}
        (config / "resourceconfig.json").write_text(json.dumps(resources))
        (config / "inputdataconfig.json").write_text(json.dumps({"train": {}} if channel is not None else {}))
        if channel is not None:
            (base / "input/data/train").mkdir(parents=True)
            for name, content in channel.items():
                path = base / "input/data/train" / name
                content.to_parquet(path) if isinstance(content, pd.DataFrame) else path.write_bytes(content)
        if checkpoints:
            (base / "checkpoints").mkdir()

    def command(self, *options, environment):
        if not self.image:
            return [sys.executable, TRAIN], os.environ | {"SAGEMAKER_BASE_DIR": str(self.base)} | environment
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        return [
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--name",
            self.name,
            "--volume",
            f"{self.base}:/opt/ml",
            *variables,
            *options,
            self.image,
            "train",
        ], None

    @property
    def name(self):
        return "test-" + hashlib.sha256(str(self.base).encode()).hexdigest()[:12]

    def start(self, *options, **environment):
        command, variables = self.command(*options, environment=environment)
        return subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *options, **environment):
        process = self.start(*options, **environment)
        self.output, self.errors = process.communicate(timeout=240)
        return process.returncode

    @property
    def failure(self):
        return (self.base / "output/failure").read_text()

    @property
    def metrics(self):
        return json.loads((self.base / "model/metrics.json").read_text())


def wait_for(process, text):
    """What a process printed up to the line with `text`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines) + process.stderr.read())


def wait_for_checkpoint(process, job, fold=""):
    """Waits until a running job has a whole checkpoint of a fold; one still being written has another name."""
    while not list((job.base / "checkpoints").glob(f"*/{fold}/[0-9]*.ckpt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
