"""The image, built and run by a real Docker engine as SageMaker runs it."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import ml
import sbom
from job_folder import SMALL, JobFolder, wait_for, wait_for_checkpoint
from ml.data.sample_market import sample_market

REPOSITORY = Path(__file__).resolve().parents[2]
MACHINE = ("--memory", "2g", "--cpus", "1")


def docker(*arguments, check=True):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def market():
    return sample_market(rows=6000, seed=3)


@pytest.fixture
def job(image, tmp_path, market):
    """Makes a job on the simulated market; options are JobFolder's."""

    def make(settings=SMALL, name="ml", **options):
        return JobFolder(tmp_path / name, settings, **({"channel": {"p.parquet": market}} | options), image=image)

    return make


def test_it_trains_with_no_network_and_little_of_a_machine(job):
    small = job()
    assert small.run(*MACHINE, TRAINING_JOB_NAME="nightly") == 0, small.errors
    assert small.metrics["job"] == "nightly" and small.metrics["epochs"][1]["epoch"] == 2
    model = keras.saving.load_model(small.base / "model/model.keras")
    assert model.output_shape == (None, 2)
    assert "Traceback" not in small.errors
    assert (small.base / "output/data/report.html").stat().st_size > 100_000


def test_no_command_means_train(job):
    default = job()
    command, _ = default.command(environment={})
    done = subprocess.run(command[:-1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert default.metrics["best_epoch"] in (1, 2)


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_it_runs_read_only_as_any_user_who_then_owns_what_it_leaves(job, user):
    owned = job()
    number = int(user.split(":")[0])
    for path in [owned.base, *owned.base.rglob("*")]:
        os.chown(path, number, number)
    assert owned.run("--user", user, "--read-only", "--tmpfs", "/tmp", *MACHINE) == 0, owned.errors
    left = [path for folder in ("model", "output") for path in (owned.base / folder).rglob("*")]
    assert len(left) > 15 and {path.stat().st_uid for path in left} == {number}


def test_the_same_job_trains_the_same_model_as_a_process(job, tmp_path, market):
    contained = job()
    process = JobFolder(tmp_path / "process", SMALL, channel={"p.parquet": market})
    assert contained.run() == 0 and process.run() == 0, contained.errors
    one, other = (
        keras.saving.load_model(each.base / "model/model.keras").get_weights() for each in (contained, process)
    )
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_empty_opt_ml_is_told(image, tmp_path):
    (tmp_path / "ml").mkdir()
    command = ["docker", "run", "--rm", "--network", "none", "-v", f"{tmp_path}/ml:/opt/ml", image, "train"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    message = "/opt/ml/input/config/hyperparameters.json is missing; SageMaker writes it"
    assert message in done.stderr and (tmp_path / "ml/output/failure").read_text().startswith(message)


def test_no_opt_ml_at_all_is_told(image):
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", image], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "hyperparameters.json is missing" in done.stderr


def test_hyperparameters_and_a_channel_are_enough(job):
    bare = job()
    for name in ("resourceconfig", "inputdataconfig"):
        (bare.base / f"input/config/{name}.json").unlink()
    shutil.rmtree(bare.base / "output")
    assert bare.run() == 0, bare.errors
    assert bare.metrics["best_epoch"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": SMALL | {"dropout": 2}}, "hyperparameter dropout must be in [0, 1), received '2'"),
        ({"channel": {}}, "channel train has no price files"),
        (
            {"settings": SMALL | {"hosts_seconds": 1}, "hosts": ("algo-1", "algo-2")},
            "host algo-1 of the job cannot be found: the name algo-1 was not resolved within 1 s",
        ),
        ({"instance_type": "ml.p4d.24xlarge"}, "the instance type is ml.p4d.24xlarge but TensorFlow sees no GPU"),
    ],
    ids=["setting", "channel", "hosts", "gpu"],
)
def test_a_mistake_is_one_line_and_a_failure(job, options, message):
    wrong = job(**options)
    assert wrong.run() != 0
    assert message in wrong.failure and "\n" not in wrong.failure
    assert wrong.failure in wrong.errors


def test_a_gpu_that_cannot_be_used_may_be_passed_over(job):
    allowed = job(SMALL | {"allow_cpu": "true"}, instance_type="ml.p4d.24xlarge")
    assert allowed.run() == 0, allowed.errors


def test_a_crash_of_ours_leaves_its_message_first(job, tmp_path):
    crashing = job()
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import ml.data.prices\n"
        "def gaps(history):\n    raise RuntimeError('the sky fell ' * 60)\n"
        "ml.data.prices.gaps = gaps\n"
    )
    assert crashing.run("--volume", f"{broken}:/opt/program/sitecustomize.py:ro") != 0
    assert crashing.failure.startswith("RuntimeError: the sky fell") and len(crashing.failure) <= 1024
    assert "sitecustomize.py" in crashing.failure


def test_docker_stop_ends_it_cleanly(job):
    stopped = job(SMALL | {"epochs": 100_000})
    process = stopped.start(*MACHINE)
    wait_for(process, "epoch=2/")
    began = time.monotonic()
    docker("stop", "--time", "60", stopped.name)
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode == 0, errors
    assert "stopped: the best model so far is in /opt/ml/model, nothing was published" in output
    assert stopped.metrics["stopped"] is True
    keras.saving.load_model(stopped.base / "model/model.keras")


def test_a_killed_container_resumes_to_the_same_weights(job):
    settings = SMALL | {"epochs": 400, "checkpoint_seconds": 1, "nodes": 64}
    whole, killed = job(settings, "whole"), job(settings, "killed", checkpoints=True)
    assert whole.run() == 0, whole.errors
    process = killed.start()
    wait_for_checkpoint(process, killed)
    docker("kill", killed.name)
    process.communicate()
    assert killed.run() == 0, killed.errors
    assert "resuming in epoch" in killed.output
    one, other = (keras.saving.load_model(each.base / "model/model.keras").get_weights() for each in (whole, killed))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_users_own_script_runs_through_the_toolkit(job):
    own = job(
        {
            "sagemaker_program": "mine.py",
            "sagemaker_submit_directory": "/opt/ml/input/data/code/source.tar.gz",
            "depth": 3,
        }
    )
    script = (
        b"import argparse, os, ml.train_sequence\n"
        b"parser = argparse.ArgumentParser(); parser.add_argument('--depth', type=int)\n"
        b"print('own script, depth', parser.parse_args().depth)\n"
        b"open(os.environ['SM_MODEL_DIR'] + '/own.txt', 'w').write('mine')\n"
    )
    archive = own.base / "input/data/code/source.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("mine.py")
        member.size = len(script)
        tar.addfile(member, io.BytesIO(script))
    assert own.run() == 0, own.errors
    assert "own script, depth 3" in own.output + own.errors
    assert (own.base / "model/own.txt").read_text() == "mine"


def test_it_labels_and_trains_on_real_bids_and_asks(job, shared):
    prices = (shared / "data/btcjpy_minutely_bid_ask_2018-01.parquet").read_bytes()
    real = job(SMALL | {"lookback": 240, "epochs": 4}, channel={"btcjpy.parquet": prices})
    assert real.run(*MACHINE) == 0, real.errors
    record = json.loads((real.base / "model/job.json").read_text())
    golden = pd.read_parquet(shared / "golden/optimal_position_btcjpy_2018-01.parquet")
    assert record["data"]["rows"] == len(golden)
    assert record["data"]["buy_share"] == pytest.approx((golden["position"] > 0).mean())
    assert "gaps" in real.output and record["data"]["gaps"]["minutes"] > 300


def test_three_years_of_real_prices_fit_into_two_gigabytes(job, shared):
    prices = (shared / "data/xbtusd_minutely_2017-06_2020-06.parquet").read_bytes()
    real = job({"nodes": 16, "epochs": 1, "spread": 0.5}, channel={"xbtusd.parquet": prices})
    assert real.run(*MACHINE) == 0, real.errors
    assert "1,621,140 of 1,621,440 bars" in real.output and real.metrics["epochs"][0]["val_accuracy"] > 0.5


def test_it_holds_what_it_needs_and_nothing_else(image):
    assert int(docker("image", "inspect", image, "--format", "{{.Size}}")) < 1.9e9

    def inside(command):
        return docker("run", "--rm", "--network", "none", image, "sh", "-c", command).split()

    assert inside("ls /opt/program") == ["__pycache__", "bin", "ml", "pyproject.toml", "train.py"]
    assert inside("command -v gcc make git; ls -A /root/.cache /tmp 2>/dev/null | grep -v :; true") == []
    assert inside("find /opt/venv -name '*.h' -path '*tensorflow/include*' -o -name '*.a'") == []
    labels = json.loads(docker("image", "inspect", image, "--format", "{{json .Config.Labels}}"))
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert labels["org.opencontainers.image.revision"] == revision
    assert labels["org.opencontainers.image.title"] == "position-trainer"
    assert labels["org.opencontainers.image.version"] == ml.__version__


def pinned(file="requirements.txt"):
    """name==version of each line of a requirements file."""
    return {line.split()[0] for line in (REPOSITORY / file).read_text().splitlines() if "==" in line}


def pinned_names():
    return set(map(normal, pinned()))


def normal(name):
    return name.lower().replace("_", "-").replace(".", "-")


def test_its_packages_are_the_pinned_ones(image):
    frozen = docker("run", "--rm", "--network", "none", image, "pip", "list", "--format", "freeze").splitlines()
    assert set(map(normal, frozen)) == pinned_names()


def test_the_bill_of_materials_names_every_package_with_its_licence(image):
    bill = sbom.bill_of_materials(image)
    assert bill["bomFormat"] == "CycloneDX"
    python = [entry for entry in bill["components"] if entry["purl"].startswith("pkg:pypi/")]
    assert {normal(f"{entry['name']}=={entry['version']}") for entry in python} == pinned_names()
    assert [entry["name"] for entry in bill["components"] if not entry.get("licenses")] == ["namex"]  # has a text only
    assert "pkg:deb/debian/libc6@" in json.dumps(bill)
    assert bill["metadata"]["component"]["version"] == ml.__version__
    assert "| numpy |" in sbom.table(bill)


def test_no_program_lends_its_owners_rights(image):
    found = docker("run", "--rm", "--network", "none", image, "find", "/", "-xdev", "-type", "f", "-perm", "/6000")
    assert found == ""


def test_the_gpu_packages_are_the_same_and_cudas():
    cpu, gpu = pinned("requirements.txt"), pinned("requirements-gpu.txt")
    assert {line.split("==")[0] for line in cpu - gpu} == {"tensorflow-cpu"}
    assert all(line.startswith(("tensorflow==", "nvidia-")) for line in gpu - cpu)
    version = next(line.split("==")[1] for line in cpu if line.startswith("tensorflow-cpu=="))
    assert f"tensorflow=={version}" in gpu
