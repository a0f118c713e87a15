import json

import pytest

from ml.errors import UserError
from ml.host import Host
from ml.platform.failure import JobFailed, failures_reported
from ml.platform.job import base_folder, read_job


def write_config(base, **files):
    folder = base / "input" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_job_as_sagemaker_writes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_JOB_NAME", "nightly-1")
    write_config(
        tmp_path,
        hyperparameters={"lookback": "60"},
        inputdataconfig={"train": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}},
        resourceconfig={
            "current_host": "algo-2",
            "hosts": ["algo-1", "algo-10", "algo-2"],
            "current_instance_type": "ml.c7i.xlarge",
            "network_interface_name": "eth0",
        },
        checkpointconfig={"LocalPath": str(tmp_path / "kept")},
    )
    job = read_job(tmp_path)
    assert job.name == "nightly-1"
    assert job.hyperparameters == {"lookback": "60"}
    assert job.channels == {"train": tmp_path / "input/data/train"}
    assert [host.name for host in job.hosts] == ["algo-1", "algo-2", "algo-10"] and job.host == "algo-2"
    assert job.instance_type == "ml.c7i.xlarge"
    assert job.checkpoints == tmp_path / "kept"


def test_a_bare_folder_with_hyperparameters_is_enough(tmp_path, monkeypatch):
    monkeypatch.delenv("TRAINING_JOB_NAME", raising=False)
    write_config(tmp_path, hyperparameters={})
    (tmp_path / "input/data/prices").mkdir(parents=True)
    job = read_job(tmp_path)
    assert job.channels == {"prices": tmp_path / "input/data/prices"}
    assert job.hosts == (Host("algo-1", "algo-1", 8890),) and job.checkpoints is None and job.name == "local"


def test_hosts_are_reached_where_the_file_says(tmp_path):
    hosts = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}
    write_config(
        tmp_path, hyperparameters={}, resourceconfig=hosts | {"addresses": {"algo-2": "::1"}, "ports": {"algo-1": 1234}}
    )
    assert read_job(tmp_path).hosts == (Host("algo-1", "algo-1", 1234), Host("algo-2", "::1", 8890))


def test_instance_groups_of_different_kinds_are_refused(tmp_path):
    groups = [
        {"instance_group_name": str(number), "instance_type": kind, "hosts": [f"algo-{number}"]}
        for number, kind in enumerate(("ml.c7i.xlarge", "ml.g5.xlarge"), 1)
    ]
    hosts = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "instance_groups": groups}
    write_config(tmp_path, hyperparameters={}, resourceconfig=hosts)
    with pytest.raises(UserError, match=r"groups of different kinds, ml\.c7i\.xlarge and ml\.g5\.xlarge"):
        read_job(tmp_path).refuse_unlike_hosts()
    groups[1]["instance_type"] = "ml.c7i.xlarge"
    write_config(tmp_path, hyperparameters={}, resourceconfig=hosts)
    read_job(tmp_path).refuse_unlike_hosts()


def test_a_checkpoints_folder_is_used_where_there_is_one(tmp_path):
    write_config(tmp_path, hyperparameters={})
    (tmp_path / "checkpoints").mkdir()
    assert read_job(tmp_path).checkpoints == tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "hyperparameters.json is missing"),
        ({"hyperparameters": "{broken"}, "hyperparameters.json cannot be read as JSON"),
        ({"hyperparameters": ["lookback"]}, "hyperparameters.json must hold a JSON object, received list"),
        ({"hyperparameters": {}, "resourceconfig": {"hosts": "algo-1"}}, "hosts must be a list of names"),
        ({"hyperparameters": {}, "resourceconfig": {"hosts": ["a", "b"]}}, "current_host must be one of hosts"),
        (
            {"hyperparameters": {}, "resourceconfig": {"hosts": ["a"], "current_host": "b"}},
            "current_host must be one of hosts",
        ),
        ({"hyperparameters": {}, "resourceconfig": {"hosts": ["a"], "ports": {"a": 0}}}, "ports must hold a port"),
        ({"hyperparameters": {}, "resourceconfig": {"addresses": ["a"]}}, "addresses must hold an address"),
        ({"hyperparameters": {}, "inputdataconfig": "null"}, "inputdataconfig.json must hold a JSON object"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, files, message):
    write_config(tmp_path, **files)
    with pytest.raises(UserError, match=message):
        read_job(tmp_path)


def test_the_base_folder_is_opt_ml_unless_the_toolkit_moves_it(monkeypatch):
    monkeypatch.delenv("SAGEMAKER_BASE_DIR", raising=False)
    assert str(base_folder()) == "/opt/ml"
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", "/elsewhere")
    assert str(base_folder()) == "/elsewhere"


def failure(base, error, capsys):
    with pytest.raises(JobFailed), failures_reported(base):
        raise error
    return (base / "output/failure").read_text(), capsys.readouterr().err


def test_a_users_mistake_is_one_line_in_both_places(tmp_path, capsys):
    text, printed = failure(tmp_path, UserError("dropout must be in [0, 1)"), capsys)
    assert text == "dropout must be in [0, 1)"
    assert printed == "error: dropout must be in [0, 1)\n"


def test_a_fault_of_ours_has_its_message_first_and_where_after_it(tmp_path, capsys):
    text, printed = failure(tmp_path, KeyError("weights"), capsys)
    assert text.startswith("KeyError: 'weights'\n") and "test_job.py" in text
    assert printed.rstrip().endswith("error: KeyError: 'weights'")


@pytest.mark.parametrize("error", [UserError("x" * 5000), RuntimeError("y" * 5000), RuntimeError("z" * 900)])
def test_a_failure_fits_into_what_sagemaker_shows(tmp_path, capsys, error):
    text, _ = failure(tmp_path, error, capsys)
    assert len(text) <= 1024 and str(error)[:800] in text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_counts_as_a_failure(tmp_path, capsys, error):
    text, _ = failure(tmp_path, error, capsys)
    assert type(error).__name__ in text


def test_where_the_failure_cannot_be_written_the_error_still_shows(tmp_path, capsys):
    (tmp_path / "output").write_text("a file where a folder should be")
    with pytest.raises(JobFailed, match="no prices"), failures_reported(tmp_path):
        raise UserError("no prices")
    assert "error: no prices" in capsys.readouterr().err
