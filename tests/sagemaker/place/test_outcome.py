"""The end of a job whose runner could not write it down, by what the job left."""

import json

import pytest

from place.outcome import outcome_of


@pytest.mark.parametrize(
    ("settings", "last"),
    [({}, "performance"), ({"refit": "true"}, "refit"), ({"refit": "true", "model_db": "files:///m"}, "published")],
)
def test_a_job_without_its_toolkits_word_is_completed_by_the_last_that_it_writes(tmp_path, settings, last):
    written = {"best": {}, "best_epoch": 1, "epochs": []}
    record = {"TrainingJobStatus": "InProgress", "HyperParameters": settings, "AlgorithmSpecification": {}}
    (tmp_path / "model").mkdir()
    for name in ("performance", "refit", "published"):
        written[name] = {} if name != "published" else False
        (tmp_path / "model" / "metrics.json").write_text(json.dumps(written))
        assert bool(outcome_of(tmp_path, record)) == (last in written)
