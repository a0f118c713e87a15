"""The leaderboard of a tuning job: its order, its page."""

import csv
import html

import leaderboard
from build import read_request
from launching import REPOSITORY
from request import TUNING


def trial(number, status="Completed", value=0.5, **tuned):
    entry = {
        "TrainingJobName": f"t-{number:03d}",
        "TrainingJobStatus": status,
        "CreationTime": f"2020-01-01T00:0{number}:00+00:00",
        "TrainingStartTime": f"2020-01-01T00:0{number}:01+00:00",
        "TunedHyperParameters": tuned,
    }
    if status != "InProgress":
        entry["TrainingEndTime"] = f"2020-01-01T00:0{number}:59+00:00"
    if value is not None:
        entry["FinalHyperParameterTuningJobObjectiveMetric"] = {"MetricName": "best_val_accuracy", "Value": value}
    return entry


def example():
    tuning = read_request(REPOSITORY / "sagemaker" / "tuning_job.yaml", TUNING) | {
        "HyperParameterTuningJobName": "<b>$t$</b>",
        "HyperParameterTuningJobStatus": "InProgress",
    }
    tuning["HyperParameterTuningJobConfig"]["ParameterRanges"]["CategoricalParameterRanges"] = [
        {"Name": "<i>&", "Values": ["<script>alert(1)</script>", "$b$"]}
    ]
    tuning["TrainingJobDefinition"]["StaticHyperParameters"]["prices_db"] = "redis://user:secret@host:6379"
    tuning["Luck"] = {"verdict": "Luck <i>&", "rows": [["figure <i>&", "0.434", "What it says. " * 12]] * 4}
    shared = {"lookback": "100", "nodes": "64", "dropout": "0.1", "learning_rate": "0.001"}
    return tuning, [
        trial(1, **shared, **{"<i>&": "$b$"}),
        trial(2, "Stopped", 0.4, **shared | {"lookback": "1000"}, **{"<i>&": "<script>alert(1)</script>"}),
        trial(3, "Failed", None, **shared),
        trial(4, "InProgress", 0.9, **shared | {"nodes": "1000"}),
    ]


def test_the_page_escapes_everything_and_fetches_nothing():
    tuning, trials = example()
    page = leaderboard.page(tuning, trials)
    assert "<script" not in page and "<i>" not in page
    assert html.escape("<i>&") in page and html.escape("Luck <i>&") in page
    del tuning["Luck"]
    assert "luck" not in leaderboard.page(tuning, trials)
    assert "secret" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_trial_that_still_runs_is_not_the_best():
    _, trials = example()
    assert leaderboard.best_of(trials, maximize=True)["TrainingJobName"] == "t-001"
    assert leaderboard.best_of(trials[2:], maximize=True) is None
    assert leaderboard.best_of(trials[:2], maximize=False)["TrainingJobName"] == "t-002"


def test_a_page_without_an_objective_yet_has_no_charts():
    tuning, trials = example()
    assert "<figure>" not in leaderboard.page(tuning, trials[2:3])


def test_no_cell_of_the_csv_is_a_formula(tmp_path):
    tuning, trials = example()
    texts = ["=1+1", "+a", "-a", "@sum", "-0.5", "+1e-3", "a=b", ""]
    tuning["HyperParameterTuningJobConfig"]["ParameterRanges"]["CategoricalParameterRanges"] = [
        {"Name": "=x", "Values": texts}
    ]
    trials = [trial(1, **trials[0]["TunedHyperParameters"], **{"=x": text}) for text in texts]
    leaderboard.write_files(tmp_path, tuning, trials)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = ["'=1+1", "'+a", "'-a", "'@sum", "-0.5", "0.001", "a=b", ""]
    assert [row["'=x"] for row in rows] == written
    assert rows[0]["learning_rate"] == "0.001"


def test_the_page_in_a_browser(browser, tmp_path):
    leaderboard.write_files(tmp_path, *example())
    browser.get((tmp_path / "leaderboard.html").as_uri())
    assert browser.get_log("browser") == []
    charts = browser.execute_script("return [...document.images].map(image => [image.alt, image.naturalWidth])")
    assert [title for title, _ in charts] == ["best_val_accuracy over time"] + [
        f"best_val_accuracy against {name}" for name in ("lookback", "nodes", "dropout", "learning_rate", "<i>&")
    ]
    assert all(width > 0 for _, width in charts)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.title == "<b>$t$</b>"
    assert len(browser.find_elements("css selector", "table.luck td")) == 12
    rows = browser.execute_script("return [...document.querySelectorAll('tr.marked td')].map(cell => cell.innerText)")
    assert (rows[:2], rows[-1]) == (["2", "Completed"], "t-001")  # the first still runs
