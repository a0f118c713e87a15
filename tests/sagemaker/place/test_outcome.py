"""The end of a job whose runner could not write it down, by what the job left."""

import json

import pytest

from place.outcome import outcome_of, read_metrics


@pytest.mark.parametrize(
    ("settings", "last"),
    [({}, "performance"), ({"refit": "true"}, "refit"), ({"refit": "true", "model_db": "files:///m"}, "published")],
)
def test_a_job_without_its_toolkits_word_is_completed_by_the_last_that_it_writes(tmp_path, settings, last):
    written = {"best": {}, "best_epoch": 1, "epochs": [], "published": None, "refit": None}
    record = {"TrainingJobStatus": "InProgress", "HyperParameters": settings, "AlgorithmSpecification": {}}
    (tmp_path / "model").mkdir()
    for name in ("performance", "refit", "published"):
        written[name] = {} if name != "published" else False
        (tmp_path / "model" / "metrics.json").write_text(json.dumps(written))
        assert bool(outcome_of(tmp_path, record)) == (written.get(last) is not None)


@pytest.mark.parametrize(
    "part",
    [{"best": None}, {"epochs": [None]}, {"epochs": {}}, {"performance": {"metrics": []}}, {"population": [1]}],
    ids=str,
)
def test_a_metrics_file_of_another_shape_is_none(tmp_path, part):
    whole = {"best": {}, "best_epoch": 1, "epochs": [{"loss": 0.5}]}
    for content in (whole, whole | part):
        (tmp_path / "metrics.json").write_text(json.dumps(content))
        assert read_metrics(tmp_path) == (content if content == whole else {})
