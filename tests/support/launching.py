"""What the launcher's tests share: running it, and a training job in miniature for it to run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# An account that nobody has
REGION = "eu-west-1"
IMAGE_URI = "999988887777.dkr.ecr.eu-west-1.amazonaws.com/position-trainer:1"
ROLE = "arn:aws:iam::999988887777:role/trainer"
ACCOUNT = ["--role", ROLE, "--bucket", "prices", "--image", IMAGE_URI]

LAUNCH = [sys.executable, str(REPOSITORY / "sagemaker" / "launch.py")]

STUB_JOB = '''
"""A training job in miniature: the contract's files and signals, metric lines, no TensorFlow."""
import json, os, signal, time
from pathlib import Path
from ml.files import write_json
from ml.platform.job import base_folder
from ml.deliver.results import metrics_of, write_metrics
from ml.metrics import metric_line, performance_line, rounded

def population(parameters):
    """The members: the best has a dropout of 0.3; one whose seed is 0 diverges; halving leaves the best alone."""
    points = json.loads(parameters.get("points", "[]"))
    count = int(parameters.get("population", "1"))
    if count > 1:
        ranges = json.loads(parameters["ranges"])["ContinuousParameterRanges"]
        bounds = [(each["Name"], float(each["MinValue"]), float(each["MaxValue"])) for each in ranges]
        points = [{name: low + (high - low) * i / count for name, low, high in bounds} for i in range(count)]
    accuracies = [1 - abs(float(point.get("dropout", 0.2)) - 0.3) for point in points]
    return [{"member": i, "settings": point, "epochs": 3, "best_epoch": 3, "metrics": {"best_val_accuracy": accuracy},
             "status": "Diverged" if str(point.get("seed")) == "0" else
                       "Pruned" if "halving" in parameters and accuracy < max(accuracies) else "Completed"}
            for i, (point, accuracy) in enumerate(zip(points, accuracies))]

def main():
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    base = base_folder()
    parameters = json.loads((base / "input/config/hyperparameters.json").read_text())
    if parameters.get("optimizer") == "sgd":
        (base / "output" / "failure").write_text("sgd is not for me")
        raise RuntimeError("sgd")
    epochs, dropout, history = int(parameters["epochs"]), parameters.get("dropout", "0.2"), []
    members = population(parameters)
    kept = max(members, key=lambda each: (each["status"] == "Completed", each["metrics"]["best_val_accuracy"])) \\
        if members else {}
    dropout = str(kept.get("settings", {}).get("dropout", dropout))
    for epoch in range(1, epochs + 1):
        if stop:
            break
        time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
        accuracy = 1 - abs(float(dropout) - 0.3) - 0.1 / epoch
        values = {"loss": 9.1e-06 / epoch, "accuracy": accuracy, "val_loss": float("nan"), "val_accuracy": accuracy,
                  "best_val_loss": 1 - accuracy, "best_val_accuracy": accuracy, "windows_per_second": 123456.7}
        values = {name: rounded(value) for name, value in values.items()}
        print(metric_line(epoch, epochs, values), flush=True)
        history.append(values)
    once = {"mean_val_accuracy": rounded(accuracy), "val_pnl": -1.5} if history else {}
    verdicts = {"verdict": "The model is a [stub].", "profit_verdict": "Nothing."}
    if history:
        print(performance_line(once), *verdicts.values(), sep="\\n", flush=True)
    (base / "model" / "fx_btc_jpy_model.h5").write_bytes(b"\\x89HDF\\r\\n\\x1a\\n" + dropout.encode())
    write_json(base / "model" / "metrics.json", {
        "epochs": [{"epoch": epoch} | values for epoch, values in enumerate(history, 1)],
        "best_epoch": len(history), "best": history[-1] if history else {},
        "performance": {"metrics": once} | verdicts, "folds": [{}] * int(parameters.get("folds", "1"))}
        | ({"population": members, "member": kept["member"]} if members else {}))
    (base / "output" / "data" / "report.html").write_text("<!doctype html>")
    (base / "output" / "data" / "seen.json").write_text(json.dumps({
        "parameters": parameters, "cores": len(os.sched_getaffinity(0)), "job": os.environ["TRAINING_JOB_NAME"],
        "data": sorted(str(path.relative_to(base)) for path in base.glob("input/**/*") if path.is_file())}))
'''


def price_list_entry(usage_type, usd, unit="Hrs"):
    """An entry of the Price List, as GetProducts gives it, shortened to what is read."""
    dimension = {"unit": unit, "pricePerUnit": {"USD": usd}, "description": f"${usd} per hour"}
    return json.dumps(
        {
            "product": {"productFamily": "ML Instance", "attributes": {"usagetype": usage_type}, "sku": "A"},
            "serviceCode": "AmazonSageMaker",
            "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": dimension}}}},
        }
    )


class Launcher:
    """Runs launch.py as its user does, in a folder of runs of its own."""

    def __init__(self, folder: Path):
        self.runs = folder / "runs"
        self._stub, self._prices = folder / "stub", folder / "prices.csv"
        self._stub.mkdir()
        (self._stub / "stub_job.py").write_text(STUB_JOB)
        self._prices.write_text("dt,mid\n2020-01-01T00:00,1\n")

    @property
    def stub(self) -> list[str]:
        """Options that make `train` and `tune` run the miniature."""
        return [
            "--env",
            "SAGEMAKER_TRAINING_MODULE=stub_job:main",
            "--set",
            "epochs=3",
            "--env",
            f"PYTHONPATH={self._stub}:{REPOSITORY / 'container'}",
            "--prices",
            str(self._prices),
        ]

    def start(self, command, *arguments, **options) -> subprocess.Popen:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POSITION_TRAINER")}
        return subprocess.Popen(
            [*LAUNCH, command, "--runs", str(self.runs), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def __call__(self, command, *arguments, expect=0) -> str:
        """Standard output; standard error follows it where the command is expected to fail."""
        process = self.start(command, *arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == expect, out + err
        return out + err if expect else out

    def record(self, name, file="training_job.json") -> dict:
        return json.loads((self.runs / name / file).read_text())

    def wait_for(self, condition, seconds=30):
        """The condition's value as soon as it is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if value := condition():
                    return value
            except (FileNotFoundError, KeyError):
                pass
            time.sleep(0.05)
        raise AssertionError("waited in vain")


@pytest.fixture
def launch(tmp_path):
    return Launcher(tmp_path)
