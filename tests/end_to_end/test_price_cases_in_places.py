"""Price files of ../shared/cases through a container, through S3 and onto the report's page."""

import boto3
import pytest

from job_folder import SMALL, JobFolder
from ml.data.prices import labelled_prices
from ml.errors import UserError
from ml.hyperparameters import parse_settings
from place.inputs import bring_channel
from price_files import written_cases

FAST = {name: str(value) for name, value in (SMALL | {"horizon": 30, "epochs": 1, "tensorboard": "false"}).items()}
TWELVE = str.split(
    "bom-crlf utf16 klines-no-header semicolons metatrader histdata zip gz-by-another-name ccxt-json feather "
    "folder-of-days bars-of-hours"
)
BARS = {"bars-of-five-minutes": "bars of 5 minutes", "bars-of-seconds": "seconds", "bars-of-hours": "hours"}


@pytest.fixture(scope="module")
def cases(shared, tmp_path_factory):
    """The folder of the cases, and what each must be."""
    return written_cases(shared, tmp_path_factory.mktemp("cases"))


def hash_of(folder, options):
    """The data hash that a process finds in a channel's folder; `job.json` has it as `data.sha256`."""
    settings = parse_settings(FAST | options)
    return labelled_prices(settings, {"train": folder}, room=10**12).facts["sha256"]


@pytest.mark.parametrize("name", TWELVE)
def test_a_container_trains_on_the_same_data_as_a_process(cases, image, launch, name):
    folder, options = cases[0] / name, cases[1][name]["options"]
    settings = [part for pair in (FAST | options).items() for part in ("--set", "=".join(pair))]
    launch(
        *("train", "--on", "docker", "--image", image, "--network-isolation"),
        *("--prices", folder, "--name", "one", *settings),
    )
    record = launch.record("one", "model/job.json")["data"]
    assert record["sha256"] == hash_of(folder, options)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert [file["name"] for file in record["source"]["files"]] == files
    assert record["source"]["line"] in launch("logs", "one", "--no-follow")


@pytest.mark.parametrize("name", TWELVE)
def test_a_channel_that_came_through_s3_holds_the_same_data(cases, aws, tmp_path, name):
    folder, options = cases[0] / name, cases[1][name]["options"]
    client = boto3.client("s3")
    client.create_bucket(Bucket="prices")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "prices", f"{name}/history/{path.relative_to(folder)}")
    bring_channel(f"s3://prices/{name}/history/", tmp_path / "train")
    assert hash_of(tmp_path / "train", options) == hash_of(folder, options)


def test_a_job_trains_on_prices_in_s3(cases, aws, launch):
    boto3.client("s3").create_bucket(Bucket="prices")
    folder, options = cases[0] / "metatrader", cases[1]["metatrader"]["options"]
    (path,) = folder.iterdir()
    boto3.client("s3").upload_file(str(path), "prices", f"mt5/{path.name}")
    settings = [part for pair in (FAST | options).items() for part in ("--set", "=".join(pair))]
    launch("train", "--prices", "s3://prices/mt5/", "--name", "one", *settings)
    assert launch.record("one", "model/job.json")["data"]["sha256"] == hash_of(folder, options)


@pytest.fixture(scope="module")
def pages(cases, tmp_path_factory):
    """The report's page of a job on each kind of bars."""
    found = {}
    for name in BARS:
        channel = {path.name: path.read_bytes() for path in (cases[0] / name).iterdir()}
        job = JobFolder(tmp_path_factory.mktemp(name) / "ml", FAST | cases[1][name]["options"], channel=channel)
        assert job.run() == 0, job.errors
        found[name] = job.base / "output/data/report.html"
    return found


def test_a_jobs_page_calls_bars_by_their_length_and_names_its_files(browser, pages):
    for name, words in BARS.items():
        browser.get(pages[name].as_uri())
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        text = browser.find_element("tag name", "body").text
        assert f"validation {words}" in text and "channel train, p.csv (CSV): times in dt (ISO 8601, UTC)" in text
        assert "minute" not in text.replace("bars of 5 minutes", "").replace("more than 30 minutes", "")


@pytest.mark.parametrize("command", ["train", "tune"])
def test_what_a_job_would_refuse_is_refused_before_it_starts(cases, launch, command):
    folder, case = cases
    refused = [name for name in case if case[name]["outcome"] == "refused"]
    assert len(refused) > 10
    for name in refused if command == "train" else refused[:2]:
        with pytest.raises(UserError) as told:
            hash_of(folder / name, case[name]["options"])
        options = [part for pair in case[name]["options"].items() for part in ("--set", "=".join(pair))]
        out = launch(command, "--prices", folder / name, *options, expect=1)
        assert out == f"error: {told.value}\n".replace(f"channel {name}", "channel train")
    assert not launch.runs.exists()
