"""`check`, and what `train` and `tune` look at before anything starts: price files of this machine."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from check_prices import check_local_prices, local_prices
from launch import main
from launching import ACCOUNT, REGION
from ml.errors import UserError
from price_files import iso, lines, prices

ENOUGH = prices(6000, "2024-01-02").assign(price=np.round(100 + 5 * np.sin(np.arange(6000) / 200), 2))
BROKEN = iso(ENOUGH).replace("Z,100.02\n", "Z,100,02\n", 1)
TOLD = (
    'channel train, p.csv: line 3 has 3 fields where the header (line 1) has 2: "2024-01-02T00:01:00Z,100,02"; '
    "a decimal comma? write 100.38, or separate the fields by ; or tabs"
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in a folder of its own; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for name in ("ROLE", "IMAGE", "BUCKET", "SETTINGS", "RUNS"):
        monkeypatch.delenv(f"POSITION_TRAINER_{name}", raising=False)

    def launch(*arguments):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return launch


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(iso(ENOUGH))
    return path


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(BROKEN)
    return path


def test_check_tells_what_a_job_would_understand(run, good):
    code, out, err = run("check", good)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "read: channel train, p.csv (CSV): times in dt (ISO 8601, UTC), price in mid; 6,000 bars of 1 minute from "
        "2024-01-02 00:00 to 2024-01-06 03:59 UTC",
        "",
        "time (UTC)           mid",
        "2024-01-02 00:00:00  100",
        "2024-01-02 00:01:00  100.02",
        "2024-01-02 00:02:00  100.05",
        "...",
        "2024-01-06 03:57:00  95.05",
        "2024-01-06 03:58:00  95.05",
        "2024-01-06 03:59:00  95.06",
        "",
        "labels: 5,700 of 6,000 bars (the last 300 see too little of the future), 49.7% buy; no minute missing",
        "segments: 1 with max_gap 4d, no windows lost to cuts",
        "0.0% of the windows and 0.0% of the labels reach across more than 30 minutes without a bar; "
        "a label looks ahead 5 hours at most",
        "training on 3,480 rows, validating on the next 570, testing on the last 570; windows of 240 bars: 3,241 to "
        "train on, 331 to validate on, 331 to test on",
    ]


def test_check_names_the_line_that_is_wrong(run, broken):
    assert run("check", broken) == (1, "", f"error: {TOLD}\n")


def test_check_shows_what_it_read_also_where_a_job_would_refuse_it(run, tmp_path):
    (tmp_path / "p.csv").write_text(iso(prices(100)[lambda frame: frame.index != 50]))
    code, out, err = run("check", "p.csv")
    assert code == 1 and "99 bars of 1 minute" in out
    assert "gaps: 1 minute missing in 1 gap (the longest 1 after 2024-01-20 00:49:00+00:00)\n" in out
    assert err.startswith("error: a job with these settings would refuse them: 99 rows are too few to label")


def test_check_reads_several_files_and_folders_as_one_channel(run, tmp_path):
    (tmp_path / "more").mkdir()
    for name, part in (("a.csv", ENOUGH[:2000]), ("b.csv", ENOUGH[2000:4000]), ("more/c.csv", ENOUGH[4000:])):
        (tmp_path / name).write_text(iso(part))
    for name in "wxyz":
        (tmp_path / "more" / f"{name}.txt").write_text("read me")
    code, out, _ = run("check", "b.csv", "a.csv", "more", "--set", "lookback=60")
    assert code == 0 and "channel train, 3 files (CSV)" in out and "6,000 bars" in out and "windows of 60 bars" in out
    assert out.count("left out: ") == 4
    (tmp_path / "more" / "a.csv").write_text("another")
    code, _, err = run("check", "a.csv", "more")
    assert code == 1 and err.endswith("would both be a.csv in the channel; rename one, or name the folder above both\n")
    assert run("check", "s3://b/p.csv")[2].startswith("error: s3:/b/p.csv is not on this machine; copy it first")
    assert run("check", "none.csv") == (1, "", "error: there is no file or folder none.csv\n")


def test_check_reads_a_folder_of_instruments_as_a_job_does(run, tmp_path):
    (tmp_path / "coins").mkdir()
    for name, level in (("one", 1.0), ("two", 7.0)):
        (tmp_path / "coins" / f"{name}.csv").write_text(iso(ENOUGH.assign(price=ENOUGH["price"] * level)))
    code, out, err = run("check", "coins")
    assert (code, err) == (0, "")
    assert "read one: " in out and "read two: " in out and "labels: 11,400 of 12,000 bars of 2 instruments" in out
    assert set(json.loads(run("check", "coins", "--json")[1])["instruments"]) == {"one", "two"}
    assert (
        "the files hold 2 instruments (one, two)"
        in run("import", "coins", "--to", f"files:/{tmp_path}/k", "--key", "/k")[2]
    )


def test_check_prints_json_for_programs(run, good):
    code, out, _ = run("check", good, "--json")
    found = json.loads(out)
    assert code == 0 and found["problem"] == "" and found["rows"] == 5700
    assert found["source"]["bar_seconds"] == 60 and len(found["source"]["files"][0]["sha256"]) == 64
    assert (found["train_windows"], found["validation_windows"], found["test_windows"]) == (3241, 331, 331)
    assert found["first_rows"][1] == {"time": "2024-01-02 00:01:00+00:00", "mid": 100.02}


@pytest.mark.parametrize("level", [60_000, 1.1, 0.00003])
def test_check_draws_prices_of_any_size(run, tmp_path, level):
    index = pd.date_range("2024-01-02", periods=6000, freq="min", tz="UTC")
    wave = np.sin(np.arange(6000) / 300)
    wave[3001] = 5  # one row of many, which must be seen
    pd.DataFrame({"close": level * (1 + 0.01 * wave)}, index=index).to_parquet(tmp_path / "p.parquet")
    assert run("check", "p.parquet", "--picture", "p.png")[0] == 0
    dark = np.asarray(Image.open(io.BytesIO((tmp_path / "p.png").read_bytes())).convert("L")) < 128
    assert dark[:, 200:].any(axis=0).mean() > 0.9  # a line to the end
    assert 0 < dark[60:220, 200:].any(axis=0).mean() < 0.05  # and the spike alone in the upper half, below the title
    assert run("check", "p.parquet", "--picture", "p.docx")[2] == (
        "error: --picture must end in .png or .svg, received p.docx\n"
    )


PLACES = {"local": [], "docker": ["--on", "docker"], "aws": ["--on", "aws", *ACCOUNT, "--region", REGION]}


@pytest.mark.parametrize("command", ["train", "tune"])
@pytest.mark.parametrize("place", PLACES)
def test_wrong_prices_of_this_machine_end_a_launch_before_anything_starts(run, broken, tmp_path, command, place):
    options = [command, *PLACES[place], "--runs", "runs", "--prices", broken]
    assert run(*options) == (1, "", f"error: {TOLD}\n")
    assert not (tmp_path / "runs").exists()
    assert run(*options, "--dry-run") == (1, "", f"error: {TOLD}\n")
    assert run(*options, "--dry-run", "--no-check")[0] == 0


def test_right_prices_are_told_in_a_line(run, good):
    code, _, err = run("train", "--prices", good, "--dry-run")
    assert code == 0 and "prices: channel train, p.csv (CSV): times in dt" in err


def test_prices_that_are_too_few_for_the_settings_end_a_launch(run, good):
    code, _, err = run("train", "--prices", good, "--dry-run", "--set", "lookback=1440")
    assert code == 1 and "channel train, p.csv: lookback 1,440 is larger than the test part" in err


def request_of(path, **hyperparameters):
    source = {"S3DataSource": {"S3Uri": path if isinstance(path, str) else path.as_uri()}}
    return {
        "TrainingJobName": "one",
        "HyperParameters": hyperparameters,
        "InputDataConfig": [{"ChannelName": "train", "DataSource": source}],
    }


def test_only_what_our_job_reads_from_this_machine_is_looked_at(good):
    assert local_prices(request_of(good)) == [good]
    assert local_prices(request_of("s3://prices/history/")) == []
    assert local_prices(request_of(good, prices_db="s3://b")) == []
    assert local_prices(request_of(good, prices_channel="other")) == []
    assert local_prices(request_of(good, sagemaker_program="mine.py")) == []
    assert local_prices(request_of(good) | {"Environment": {"SAGEMAKER_TRAINING_MODULE": "mine:main"}}) == []


def tuning_of(path, kind, **range_):
    definition = request_of(path)
    del definition["TrainingJobName"]
    definition["StaticHyperParameters"] = definition.pop("HyperParameters")
    return {
        "HyperParameterTuningJobName": "t",
        "HyperParameterTuningJobConfig": {"ParameterRanges": {kind: [range_]}},
        "TrainingJobDefinition": definition,
    }


def test_of_a_search_only_what_every_trial_would_refuse_is_refused(good):
    integer = "IntegerParameterRanges"
    check_local_prices(tuning_of(good, integer, Name="lookback", MinValue="60", MaxValue="5000"), [good])
    check_local_prices(tuning_of(good, integer, Name="folds", MinValue="50", MaxValue="60"), [good])
    check_local_prices(tuning_of(good, "CategoricalParameterRanges", Name="lookback", Values=["4000", "240"]), [good])
    with pytest.raises(UserError, match="lookback 4,000 is larger than the test part"):
        check_local_prices(tuning_of(good, integer, Name="lookback", MinValue="4000", MaxValue="5000"), [good])


def test_bid_and_ask_are_shown_without_the_noise_of_their_middle(run, tmp_path):
    text = lines(ENOUGH, lambda time, price: f"{time}Z,{float(price) - 0.1:.2f},{price}", "time,bid,ask")
    (tmp_path / "p.csv").write_text(text)
    assert "2024-01-02 00:01:00  99.97  99.92  100.02" in run("check", "p.csv")[1]
