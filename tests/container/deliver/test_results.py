import json
import math

import pytest

import ml
from ml.deliver.results import (
    SCHEMA,
    job_record,
    library_versions,
    metrics_of,
    read_job_record,
    read_metrics,
    write_metrics,
)
from ml.errors import UserError
from ml.files import write_json
from ml.hyperparameters import parse_settings

DATA = {"rows": 9, "first": "", "last": "", "gaps": {}, "buy_share": 0.5, "train_rows": 8, "validation_rows": 1}


def test_what_is_written_is_read(tmp_path):
    history = [{"loss": 0.7, "val_loss": math.nan}, {"loss": 0.5, "val_loss": 0.6}]
    write_metrics(tmp_path, metrics_of(job="one", history=history, best_epoch=2))
    assert read_metrics(tmp_path) == {
        "schema": SCHEMA,
        "job": "one",
        "best_epoch": 2,
        "stopped": False,
        "published": None,
        "best": {"loss": 0.5, "val_loss": 0.6},
        "epochs": [{"epoch": 1, "loss": 0.7, "val_loss": None}, {"epoch": 2, "loss": 0.5, "val_loss": 0.6}],
    }
    assert metrics_of(job="one", history=[], best_epoch=0)["best"] == {}


def test_a_job_record_holds_all_that_a_model_was_made_from(tmp_path):
    settings = parse_settings({"start_date": "2020-01-01", "prices_db": "files:///x", "nodes": "16"})
    write_json(tmp_path / "job.json", job_record(job="one", instance_type="", settings=settings, data=DATA))
    record = read_job_record(tmp_path)
    assert record["version"] == ml.__version__ and record["libraries"] == library_versions()
    assert record["settings"]["start_date"] == "2020-01-01 00:00:00+00:00" and record["settings"]["nodes"] == 16


def test_library_versions_name_what_computes():
    assert {"python", "keras", "numpy", "kydb"} <= set(library_versions())


def test_files_from_before_there_was_a_schema_are_read(tmp_path):
    (tmp_path / "metrics.json").write_text('{"best_epoch": 1, "best": {}, "epochs": [{"epoch": 1, "loss": 0.5}]}')
    assert read_metrics(tmp_path)["best_epoch"] == 1


WHOLE = {"schema": 1, "best_epoch": 0, "best": {}, "epochs": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged and cannot be read"),
        (b"\xff", "is damaged and cannot be read"),
        (b"[" * 100_000, "is damaged and cannot be read"),
        (b"[]", "is damaged: it must hold a JSON object, received list"),
        (b"{}", "is damaged: best_epoch must be of type int, received NoneType"),
        (WHOLE | {"schema": 2}, "has schema '2' and this version of position-trainer"),
        (WHOLE | {"schema": "x"}, "has schema 'x' and this version"),
        (WHOLE | {"epochs": {}}, "epochs must be of type list, received dict"),
        (WHOLE | {"best": {"val_loss": "x"}}, "an epoch's metrics must be numbers"),
        (WHOLE | {"epochs": [1]}, "an epoch's metrics must be numbers"),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError) as told:
        read_metrics(tmp_path)
    assert str(path) in str(told.value) and message in str(told.value) and "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_job_record(tmp_path)


def test_metrics_that_cannot_be_written_are_told_in_a_line(tmp_path):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(UserError, match="metrics.json cannot be written: .*the model beside it is whole"):
        write_metrics(tmp_path, metrics_of(job="one", history=[], best_epoch=0))
