import json
import re
import signal

import keras
import numpy as np
import pandas as pd
import pytest

from job_folder import SMALL, JobFolder, wait_for, wait_for_checkpoint
from ml.data.sample_market import sample_market
from ml.errors import UserError
from ml.learn.folds import described, folds_of, rows_of_parts, split_by_time
from ml.metrics import METRICS
from ml.optimal_position import labelled
from ml.settings import Settings

TESTED = SMALL | {"test_fraction": 0.1}
FOLDS = TESTED | {"folds": 3}


@pytest.fixture(scope="module")
def market():
    return sample_market(rows=10_000, seed=3)


def history(rows):
    return labelled(sample_market(rows=rows), 50, 0)


def weights(job):
    return keras.saving.load_model(job.base / "model/model.keras").get_weights()


def assert_same_weights(one, other):
    for ours, theirs in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_folds_are_purged_consecutive_stretches_and_the_last_is_the_plain_split():
    prices = history(5050)
    settings = Settings(lookback=100, horizon=50, folds=3, validation_fraction=0.1, test_fraction=0)
    folds = folds_of(prices, settings)
    assert [len(fold.train_rows) for fold in folds] == [3350, 3850, 4350]
    for fold in folds:
        assert len(fold.history) == len(fold.train_rows) + 100 + 50 + len(fold.validation_rows)
        assert fold.train_rows.index[0] == prices.index[0]
        assert fold.validation_rows.index[-1] == fold.history.index[-1]
    validated = pd.concat([fold.validation_rows for fold in folds])
    pd.testing.assert_index_equal(validated.index, prices.index[-1500:])
    for mine, plain in zip(
        (folds[-1].train_rows, folds[-1].validation_rows), split_by_time(prices, 0.1, 100, 50), strict=True
    ):
        pd.testing.assert_frame_equal(mine, plain)


def test_the_last_rows_are_a_test_part_that_no_fold_comes_near():
    prices = history(5050)
    folds = folds_of(prices, Settings(lookback=100, horizon=50, folds=2))
    tested = folds[-1].test_part
    pd.testing.assert_index_equal(tested.held_out.index, prices.index[-500:])
    pd.testing.assert_frame_equal(tested.train_rows, folds[-1].train_rows)
    assert [fold.counts for fold in folds] == [
        (5000 - 500 - 150 - 1000 - 150, 500),
        (5000 - 500 - 150 - 500 - 150, 500),
    ]
    for fold in folds:  # what is validated ends a purge before the test part
        validated = pd.concat([each.held_out for each in folds]).index
        assert fold.history.index[-1] <= validated[-1] == prices.index[-651]
    assert rows_of_parts(folds) == {"train_rows": 3700, "validation_rows": 500, "test_rows": 500}
    assert described(folds) == (
        "training on 3,700 rows, validating on the next 500, after 1 such folds before them, testing on the last 500"
    )


def test_without_validation_all_but_the_test_part_is_trained_on():
    prices = history(5050)
    (fold,) = folds_of(prices, Settings(lookback=100, horizon=50, validation_fraction=0))
    assert fold.validation_rows is None and fold.parts[1] == [] and fold.counts == (5000 - 500 - 150, 0)
    assert fold.test_part.counts == (4350, 500)
    (whole,) = folds_of(prices, Settings(lookback=100, horizon=50, validation_fraction=0, test_fraction=0))
    assert whole.test_part is None and whole.counts == (5000, 0)


def test_a_test_part_without_a_window_is_told():
    with pytest.raises(
        UserError, match=r"lookback 600 is larger than the test part: 500 of 5,000 rows \(test_fraction"
    ):
        folds_of(history(5050), Settings(lookback=600, horizon=50))
    with pytest.raises(UserError, match=r"validation takes 500, the test part takes 500 and each purge 2,400; .* or"):
        folds_of(history(5050), Settings(lookback=400, horizon=2000))


def test_a_fold_without_a_window_to_train_on_is_told():
    with pytest.raises(UserError, match=r"fold 1 of 5 has 50 rows to train on, fewer than the 100 of one window"):
        folds_of(history(1050), Settings(lookback=100, horizon=50, folds=5, validation_fraction=0.16, test_fraction=0))


@pytest.mark.slow
def test_every_fold_is_told_and_the_last_ones_model_is_that_of_a_single_fold(tmp_path, market):
    walk, single = (
        JobFolder(tmp_path / name, settings, channel={"p.parquet": market})
        for name, settings in (("walk", FOLDS), ("single", TESTED))
    )
    assert walk.run() == 0 and single.run() == 0, walk.errors
    assert_same_weights(walk, single)
    table = walk.metrics["folds"]
    assert [row["fold"] for row in table] == [1, 2, 3] and len(single.metrics["folds"]) == 1
    assert table[2] == single.metrics["folds"][0] | {"fold": 3}
    for name in ("val_accuracy", "val_pnl"):
        assert walk.metrics["performance"]["metrics"][f"mean_{name}"] == pytest.approx(
            np.mean([row[name] for row in table]), rel=1e-5
        )
    # Every declared metric is printed, the epochs' by the kept model alone, and no other.
    for name, metric in METRICS.items():
        printed = [float(text) for text in re.findall(metric.regex, walk.output, re.MULTILINE)]
        kept = [walk.metrics["performance"]["metrics"]] if metric.once else walk.metrics["epochs"]
        assert [None if value != value else value for value in printed] == [numbers[name] for numbers in kept], name
    assert set(re.findall(r"(?:^|\s)(\w+)=", walk.output)) == {"epoch", *METRICS}
    assert walk.output.count("fold 1 of 3: epoch ") == SMALL["epochs"]


LONG = FOLDS | {"epochs": 40, "checkpoint_seconds": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, market):
    job = JobFolder(tmp_path_factory.mktemp("undisturbed") / "ml", LONG, channel={"p.parquet": market})
    assert job.run() == 0, job.errors
    return job


@pytest.mark.parametrize("killed_in", ["fold-1", "fold-2", ""])
@pytest.mark.slow
def test_a_job_killed_in_any_fold_resumes_to_the_same_weights_and_numbers(tmp_path, market, undisturbed, killed_in):
    killed = JobFolder(tmp_path / "ml", LONG, channel={"p.parquet": market}, checkpoints=True)
    process = killed.start()
    wait_for_checkpoint(process, killed, killed_in)
    process.kill()
    process.communicate()
    assert killed.run() == 0, killed.errors
    assert "fold 1 of 3: resuming in epoch" in killed.output
    if killed_in != "fold-1":  # a fold that was finished is not trained again
        assert "fold 1 of 3: epoch" not in killed.output
    assert_same_weights(killed, undisturbed)
    assert killed.metrics["folds"] == undisturbed.metrics["folds"]


@pytest.mark.slow
def test_a_stop_in_an_early_fold_keeps_its_best_model(tmp_path, market):
    job = JobFolder(tmp_path / "ml", FOLDS | {"epochs": 100_000}, channel={"p.parquet": market})
    process = job.start()
    wait_for(process, "fold 1 of 3: epoch 2/")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "nothing was published" in output and "fold 2" not in output
    assert job.metrics["stopped"] is True and job.metrics["best_epoch"] >= 1
    assert "performance" not in json.loads((job.base / "model/metrics.json").read_text())
    keras.saving.load_model(job.base / "model/model.keras")
