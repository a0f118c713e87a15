"""The launcher on this machine: real processes, started, followed, stopped and asked about."""

import json
import os
import re
import signal
import subprocess
import time

import kydb
import pytest
import yaml

from launching import LAUNCH
from ml.metrics import METRICS, metric_definitions
from place.record import metrics_in


def test_a_job_runs_and_leaves_what_sagemaker_would(launch):
    out = launch("train", *launch.stub, "--name", "one", "--set", "dropout=0.25")
    assert "epoch=3/3 loss=3.03333e-06" in out
    assert "one: Completed" in out
    assert out.count("The model is a [stub].\nNothing.\n") == 1  # in the log; the summary does not repeat it
    assert f"report: {launch.runs}/one/output/data/report.html\n" in out
    seen = launch.record("one", "output/data/seen.json")
    assert seen["parameters"]["dropout"] == "0.25"  # every value is text
    assert seen["job"] == "one"
    assert seen["data"] == [
        f"input/config/{name}.json" for name in ("hyperparameters", "inputdataconfig", "resourceconfig")
    ] + ["input/data/train/prices.csv"]
    record = launch.record("one")
    assert record["TrainingJobStatus"] == record["SecondaryStatus"] == "Completed"
    assert record["TrainingStartTime"] < record["TrainingEndTime"]
    assert (launch.runs / "one/looks").resolve() == launch.runs / ".looks" and (launch.runs / ".looks").is_dir()


def test_the_reason_of_a_failure_is_the_last_line_and_the_exit_code_is_not_zero(launch):
    out = launch("train", *launch.stub, "--set", "optimizer=sgd", "--name", "bad", expect=1)
    assert out.rstrip().splitlines()[-1] == "AlgorithmError: sgd is not for me, exit code: 1"
    assert launch.record("bad")["FailureReason"] == "AlgorithmError: sgd is not for me, exit code: 1"
    assert json.loads(launch("status", "bad", "--json"))["TrainingJobStatus"] == "Failed"
    assert "sgd is not for me" in launch("logs", "bad", expect=1).rstrip().splitlines()[-1]


def test_metric_definitions_give_back_the_numbers_of_metrics_json(launch):
    launch("train", *launch.stub, "--name", "one")
    log = (launch.runs / "one" / "job.log").read_text()
    metrics = launch.record("one", "model/metrics.json")
    epochs, once = metrics["epochs"], metrics["performance"]["metrics"]
    found = metrics_in(log, launch.record("one")["AlgorithmSpecification"]["MetricDefinitions"])
    assert found["loss"][0] == 9.1e-06
    for name, values in found.items():
        expected = [once[name]] if name in once else [epoch[name] for epoch in epochs if name in epoch]
        assert [None if value != value else value for value in values] == expected
    assert {entry["MetricName"]: entry["Value"] for entry in launch.record("one")["FinalMetricDataList"]} == {
        name: value for name, value in epochs[-1].items() if name in METRICS
    } | once


def test_the_real_job_on_the_simulated_market(launch):
    out = launch(
        "train",
        "--name",
        "real",
        "--sample-rows",
        4000,
        "--set",
        "lookback=30",
        "--set",
        "nodes=8",
        "--set",
        "epochs=2",
        "--set",
        "learning_rate=1e-9",
    )
    found = metrics_in((launch.runs / "real" / "job.log").read_text(), metric_definitions())
    epochs = launch.record("real", "model/metrics.json")["epochs"]
    assert len(epochs) == 2
    once = launch.record("real", "model/metrics.json")["performance"]["metrics"]
    for name, metric in METRICS.items():
        assert [None if value != value else value for value in found[name]] == (
            [once[name]] if metric.once else [epoch[name] for epoch in epochs]
        )
    assert (launch.runs / "real" / "output" / "data" / "report.html").stat().st_size > 100_000
    assert "keras.models.load_model(" in out
    assert out.count("This is the first look at this test part.\n") == 1
    assert [path.name for path in (launch.runs / ".looks").glob("*/*")] == ["real"]
    url = re.search(r"kydb.connect\('(.+?)'\)", out).group(1)
    model = kydb.connect(url)["/ml/models/sample_market_4000_model.h5"]
    assert model == (launch.runs / "real" / "model" / "sample_market_4000_model.h5").read_bytes()


def test_ctrl_c_stops_the_job_cleanly(launch):
    process = launch.start("train", *launch.stub, "--set", "epochs=600", "--env", "STUB_SECONDS=0.05", "--name", "one")
    launch.wait_for(lambda: b"epoch=2/" in (launch.runs / "one" / "job.log").read_bytes())
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "one: Stopped" in out
    assert launch.record("one")["TrainingJobStatus"] == "Stopped"
    assert 2 <= len(launch.record("one", "model/metrics.json")["epochs"]) < 600


def test_a_detached_job_is_followed_listed_and_stopped_from_elsewhere(launch):
    out = launch(
        "train",
        *launch.stub,
        "--set",
        "epochs=600",
        "--env",
        "STUB_SECONDS=0.05",
        "--name",
        "one",
        "--detach",
        "--json",
    )
    assert json.loads(out)["TrainingJobStatus"] == "InProgress"
    follower = launch.start("logs", "one")
    launch.wait_for(lambda: "RunnerPid" in launch.record("one"))
    listed = json.loads(launch("list", "--json"))["TrainingJobSummaries"]
    assert [(job["TrainingJobName"], job["TrainingJobStatus"]) for job in listed] == [("one", "InProgress")]
    launch("stop", "one")
    out, _ = follower.communicate(timeout=30)
    assert "epoch=1/600" in out
    assert json.loads(launch("status", "one", "--json"))["TrainingJobStatus"] == "Stopped"
    assert launch("stop", "one") == "one has ended already: Stopped\n"


def test_a_job_that_runs_too_long_is_stopped(launch):
    out = launch(
        "train",
        *launch.stub,
        "--set",
        "epochs=600",
        "--env",
        "STUB_SECONDS=0.05",
        "--name",
        "one",
        "--max-runtime",
        1,
        expect=1,
    )
    assert "one: Stopped (MaxRuntimeExceeded)" in out


def test_a_job_whose_processes_were_killed_is_failed_and_says_so(launch):
    launch("train", *launch.stub, "--set", "epochs=600", "--env", "STUB_SECONDS=0.05", "--name", "one", "--detach")
    pid = launch.wait_for(lambda: launch.record("one")["RunnerPid"])
    launch.wait_for(lambda: b"epoch=1/" in (launch.runs / "one" / "job.log").read_bytes())
    job = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout.split()
    for number in (pid, *map(int, job)):
        os.kill(number, signal.SIGKILL)
    record = launch.wait_for(
        lambda: (record := json.loads(launch("status", "one", "--json")))["TrainingJobStatus"] == "Failed" and record
    )
    assert "vanished" in record["FailureReason"]


def test_a_job_whose_runner_was_killed_can_be_stopped(launch):
    launch("train", *launch.stub, "--set", "epochs=600", "--env", "STUB_SECONDS=0.05", "--name", "one", "--detach")
    launch.wait_for(lambda: b"epoch=1/" in (launch.runs / "one" / "job.log").read_bytes())
    os.kill(launch.record("one")["RunnerPid"], signal.SIGKILL)
    time.sleep(0.2)
    assert json.loads(launch("status", "one", "--json"))["TrainingJobStatus"] == "InProgress"
    launch("stop", "one")
    launch.wait_for(lambda: json.loads(launch("status", "one", "--json"))["TrainingJobStatus"] == "Stopped")
    assert len(launch.record("one", "model/metrics.json")["epochs"]) < 600


def test_a_path_with_blanks_and_percents_is_read(launch, tmp_path):
    folder = tmp_path / "my prices, 100% #1 ü"
    folder.mkdir()
    (folder / "a b.csv").write_text("dt,mid\n")
    launch("train", *launch.stub, "--channel", f"extra={folder}", "--name", "one")
    assert "input/data/extra/a b.csv" in launch.record("one", "output/data/seen.json")["data"]


def test_a_missing_docker_command_is_told_and_leaves_nothing(launch, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "the docker command is not installed" in launch("train", *launch.stub, "--on", "docker", expect=1)
    assert list(launch.runs.iterdir()) == []


def test_a_name_is_taken_once(launch):
    launch("train", *launch.stub, "--name", "one")
    assert "there is a job one already" in launch("train", *launch.stub, "--name", "one", expect=1)


def test_missing_files_and_jobs_are_told_in_one_line(launch):
    assert (
        launch("train", "--prices", "nowhere.parquet", expect=1)
        == "error: channel train: there is no file or folder nowhere.parquet\n"
    )
    assert "there is no job nothing" in launch("status", "nothing", "--on", "local", expect=1)


def test_a_folder_of_prices_is_a_channel(launch, tmp_path):
    (tmp_path / "many" / "2020").mkdir(parents=True)
    (tmp_path / "many" / "2020" / "a.csv").write_text("dt,mid\n")
    launch("train", *launch.stub, "--channel", f"extra={tmp_path / 'many'}", "--name", "one")
    assert "input/data/extra/2020/a.csv" in launch.record("one", "output/data/seen.json")["data"]


def test_publish_puts_a_finished_model_into_kydb(launch, tmp_path):
    launch("train", *launch.stub, "--name", "one")
    url = f"files:/{tmp_path / 'kydb'}"
    assert "names no KYDB" in launch("publish", "one", expect=1)
    metrics = launch.runs / "one" / "model" / "metrics.json"
    whole = metrics.read_text()
    metrics.write_text(json.dumps(json.loads(whole) | {"best_epoch": 0}))
    assert "was stopped before its first epoch ended" in launch("publish", "one", "--model-db", url, expect=1)
    metrics.write_text(whole)
    launch("publish", "one", "--model-db", url, "--model-key", "/models/mine.h5")
    assert kydb.connect(url)["/models/mine.h5"] == b"\x89HDF\r\n\x1a\n0.2"
    (launch.runs / "one" / "model" / "fx_btc_jpy_model.h5").write_bytes(b"no model")
    assert "is not an HDF5 file" in launch("publish", "one", "--model-db", url, expect=1)


def test_dry_run_prints_a_request_that_can_be_sent(launch):
    request = yaml.safe_load(launch("train", *launch.stub, "--dry-run", "--name", "one"))
    assert request["AlgorithmSpecification"]["MetricDefinitions"] == metric_definitions()
    assert json.loads(launch("train", *launch.stub, "--dry-run", "--json", "--name", "one")) == request
    assert "SAMPLE_MARKET_5000" in launch("train", "--sample-rows", 5000, "--dry-run")
    universe = launch("train", "--sample-rows", 5000, "--sample-instruments", 3, "--dry-run")
    assert "/symbols/ml/training_data/SAMPLE_3_MARKETS_5000/*" in universe
    assert not launch.runs.exists()


def test_account_facts_come_from_flags_environment_and_a_settings_file(launch, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text("role: arn:aws:iam::999988887777:role/from-file\nbucket: from-file\n")
    environment = dict(os.environ, POSITION_TRAINER_SETTINGS=str(settings), POSITION_TRAINER_BUCKET="from-environment")
    out = subprocess.run(
        [*LAUNCH, "train", *launch.stub, "--dry-run", "--image", "from-flag"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    request = yaml.safe_load(out)
    assert request["RoleArn"] == "arn:aws:iam::999988887777:role/from-file"
    assert request["OutputDataConfig"]["S3OutputPath"] == "s3://from-environment/position-trainer/jobs"
    assert request["AlgorithmSpecification"]["TrainingImage"] == "from-flag"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("role: a\nrolle: b\n", "may hold role, image, bucket, region, runs, received rolle too"),
        ("role x\n", "must hold lines of NAME: VALUE, received 'role x'"),
    ],
    ids=["unknown", "no lines"],
)
@pytest.mark.slow
def test_a_wrong_settings_file_is_told(tmp_path, text, told):
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    done = subprocess.run([*LAUNCH, "--settings-file", settings, "list"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: the settings file {settings} {told}\n")


@pytest.mark.parametrize(
    "command", ["train", "tune", "status", "logs", "stop", "list", "best", "publish", "predict", "push"]
)
def test_every_command_has_help(launch, command):
    assert launch(command, "--help").startswith("Usage: launch.py")
