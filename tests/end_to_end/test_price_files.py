"""Price files as people have them, through real jobs: what is printed, recorded and refused."""

import json

from job_folder import SMALL, JobFolder
from price_files import lines, prices

FAST = SMALL | {"horizon": 30, "epochs": 1, "tensorboard": "false"}


def test_a_job_tells_and_records_what_it_understood(tmp_path):
    text = lines(
        prices(1500, step="5min"), lambda t, p: f"{t:%Y.%m.%d}\t{t:%H:%M:%S}\t{p}\t9", "<DATE>\t<TIME>\t<CLOSE>\t<VOL>"
    )
    job = JobFolder(tmp_path / "ml", FAST | {"timezone": "Europe/Athens"}, channel={"EURUSD_M5.csv": text.encode()})
    assert job.run() == 0, job.errors
    assert (
        "read: channel train, EURUSD_M5.csv (text with tabs): times in <DATE> + <TIME> (year first, Europe/Athens), "
        "price in <CLOSE>; 1,500 bars of 5 minutes from 2024-01-19 22:00 to 2024-01-25 02:55 UTC\n"
    ) in job.output
    record = json.loads((job.base / "model/job.json").read_text())["data"]
    assert record["source"]["bar_seconds"] == 300 and record["gaps"]["bar"] == "5 minutes"
    assert record["source"]["rows_read"] == 1500 and record["rows"] == 1470
    assert [file["name"] for file in record["source"]["files"]] == ["EURUSD_M5.csv"]


def test_a_file_that_is_refused_is_named_with_its_line_and_what_mends_it(tmp_path):
    text = lines(prices(1500), lambda t, p: f"{t},{p.replace('.', ',')}", "Date,Close")
    job = JobFolder(tmp_path / "ml", FAST, channel={"p.csv": text.encode()})
    assert job.run() != 0
    assert job.failure.startswith(
        'channel train, p.csv: line 2 has 3 fields where the header (line 1) has 2: "2024-01-20'
    )
    assert "a decimal comma? write 100.38" in job.failure and f"error: {job.failure}\n" in job.errors


def test_one_class_of_labels_is_refused(tmp_path):
    frame = prices(1500)
    frame["price"] = range(1, 1501)
    job = JobFolder(tmp_path / "ml", FAST, channel={"p.parquet": frame.rename(columns={"price": "close"})})
    assert job.run() != 0
    assert "all 1,470 rows are labelled buy, and there is nothing to tell apart" in job.failure
