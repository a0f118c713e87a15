"""What is shown of a job that ended: its metrics in groups, each number once, and no text that acts."""

import json

import pytest

from place.base import Job
from place.local import LocalPlace
from place.outcome import read_metrics
from results import print_training_job

BEST = {"loss": 0.5, "val_loss": 0.6, "val_accuracy": 0.7, "best_val_loss": 0.6, "best_val_accuracy": 0.7}
ONCE = {
    "val_accuracy_gain": 0.01,
    "val_accuracy_gain_low": -0.02,
    "val_accuracy_gain_high": 0.04,
    "val_pnl": -3.5,
    "mean_val_accuracy": 0.65,
}


@pytest.fixture
def show(tmp_path, capsys):
    """Prints a job with a metrics.json; returns the lines."""

    def run(verdicts=True, **changes):
        content = {
            "best_epoch": 2,
            "epochs": [{}, {}],
            "best": BEST,
            "performance": {"metrics": ONCE, "verdict": "No skill.", "profit_verdict": "No profit."},
            "folds": [{}],
        } | changes
        (tmp_path / "one" / "model").mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / "model" / "metrics.json").write_text(json.dumps(content))
        record = {"TrainingJobStatus": "Completed", "FinalMetricDataList": [{"MetricName": "f1", "Value": 0.5}]}
        job = Job(LocalPlace(tmp_path), "one", tuning=False)
        print_training_job(job, record, as_json=False, verdicts=verdicts)
        return capsys.readouterr().out.splitlines()

    return run


def test_metrics_are_grouped_and_each_number_is_shown_once(show):
    assert show() == [
        "",
        "one: Completed",
        "epoch 2 of 2 was kept",
        "",
        "of that epoch\tvalue",
        "loss\t0.5",
        "val_loss\t0.6",
        "val_accuracy\t0.7",
        "",
        "on the validation rows\tvalue",
        "val_accuracy_gain\t0.01 (-0.02 to 0.04)",
        "val_pnl\t-3.5",
        "",
        "No skill.",
        "No profit.",
    ]


def test_means_over_folds_are_shown_where_there_are_several(show):
    lines = show(folds=[{}, {}, {}])
    assert lines[lines.index("mean over 3 folds\tvalue") + 1] == "mean_val_accuracy\t0.65"


def test_numbers_of_the_test_part_are_shown_apart_and_a_refit_is_told(show):
    lines = show(
        performance={"metrics": ONCE | {"test_accuracy": 0.6}, "verdict": "Skill.", "look": "The 2nd look."},
        refit={"epochs": 2},
    )
    assert lines[lines.index("on the test rows\tvalue") + 1] == "test_accuracy\t0.6"
    assert lines[-2:] == ["Skill.", "The 2nd look."]
    assert "the model is a refit on every row; the one that was measured is in model/measured" in lines


def test_an_interval_that_cannot_be_told_is_left_out(show):
    bounds = dict.fromkeys(["val_accuracy_gain_low", "val_accuracy_gain_high"])
    assert "val_accuracy_gain\t0.01" in show(performance={"metrics": ONCE | bounds})


def test_verdicts_that_the_log_showed_are_not_repeated(show):
    assert "No skill." not in show(verdicts=False)


def test_a_script_of_the_users_shows_what_its_log_told(show):
    assert show(best=[]) == ["", "one: Completed", "", "metric\tvalue", "f1\t0.5", ""]


def test_text_from_a_jobs_files_cannot_act_on_the_terminal(show):
    lines = show(best={"val_loss": "\x1b]52;c;eA==\x07"}, performance={"verdict": "[/b] \x1b[2J"})
    assert r"val_loss" + "\t" + r"\x1b]52;c;eA==" in lines
    assert r"[/b] \x1b[2J" in lines


@pytest.mark.parametrize("content", ["", "[]", '{"best": 1, "best_epoch": 1, "epochs": []}', "[" * 100_000])
def test_a_metrics_file_of_another_kind_is_none(tmp_path, content):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "metrics.json").write_text(content)
    assert read_metrics(tmp_path / "model") == {}
