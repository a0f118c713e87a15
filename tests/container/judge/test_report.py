import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from job_folder import SMALL, JobFolder
from ml.data.sample_market import sample_market
from ml.judge.instruments import Instrument
from ml.judge.performance import TEST, VALIDATION, fold_row, measure
from ml.judge.report import stretches, write_report
from ml.optimal_position import labelled
from ml.settings import Settings

HOSTILE = "<script>alert(1)</script>$x$&"
PICTURES = [
    "accuracy",
    "calibration",
    "data",
    "loss",
    "position_1",
    "position_2",
    "position_3",
    "position_4",
    "profit",
    "profit_optimal",
]


# Prices of any size, in bars of any length
MARKETS = {
    "minutes": (10_000, pd.Timedelta(minutes=1)),
    "seconds": (60_000, pd.Timedelta(seconds=1)),
    "bars of 5 minutes": (1.1, pd.Timedelta(minutes=5)),
    "hours": (3e-5, pd.Timedelta(hours=1)),
}


def write_one(folder, price, bar, part=VALIDATION, **settings):
    """Writes the report of a model that is right more often than not; returns what it measured."""
    market = sample_market(rows=60_000, seed=2) * (price / 10_000)
    market.index = pd.date_range("2023-01-01", periods=len(market), freq=bar, tz="UTC", name="dt")
    market = market.drop(market.index[[*range(100, 1100), *range(2000, 2234)]])
    history = labelled(market, 300, 0)
    rng = np.random.default_rng(1)
    right = np.where(history["position"] > 0, 0.65, 0.35)[-20_000:]
    probability = np.clip(right + rng.normal(0, 0.2, 20_000), 0, 1)
    instruments, config = [Instrument(history, 38_000, probability)], Settings(lookback=60, **settings)
    performance = measure(instruments, config, bar, part)
    validated = performance if part == VALIDATION else measure(instruments, config, bar)
    numbers = {"loss": 0.6, "accuracy": 0.7, "val_loss": float("nan"), "val_accuracy": 0.6}
    record = {
        "job": HOSTILE,
        "device": HOSTILE,
        "libraries": {"numpy": "2"},
        "settings": {
            "threshold": 0.0,
            "fee": 0.0,
            "refit": False,
            "monitor": "val_loss",
            "prices_db": "redis://...@host",
            "start_date": None,
        },
        "data": {
            "rows": len(history),
            "train_rows": 38_000,
            "validation_rows": 20_059,
            "test_rows": 0,
            "buy_share": 0.5,
            "sha256": "ab" * 32,
            "source": {"line": f"channel train, {HOSTILE}: price in close"},
            "segments": {"summary": ["segments: 1 with max_gap 4d", HOSTILE]},
        },
    }
    row = fold_row(1, (38_000, 20_059), history.index[-20_059:], 1, numbers, validated) | {"best_baseline": HOSTILE}
    metrics = {
        "best_epoch": 2,
        "epochs": [{"epoch": epoch} | numbers for epoch in (1, 2, 3)],
        "folds": [row, row],
        "performance": {"metrics": validated.metrics | performance.metrics, "look": HOSTILE},
    }
    record["settings"] |= settings
    if part == TEST:
        metrics["validation"] = {"verdict": "On validation it is fine.", "profit_verdict": HOSTILE}
    metrics["luck"] = {"verdict": HOSTILE, "rows": [["a figure", "0.434", HOSTILE * 5]] * 4}
    write_report(folder, record, metrics, history, performance)
    return performance


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A report on minutely prices: its folder, its page, what was measured."""
    folder = tmp_path_factory.mktemp("report")
    performance = write_one(folder, *MARKETS["minutes"])
    return folder, (folder / "report.html").read_text(encoding="utf-8"), performance


@pytest.fixture(scope="module")
def drawn_in_bars(tmp_path_factory):
    """Folders of reports by what their bars are called."""
    folders = {name: tmp_path_factory.mktemp("report") for name in MARKETS if name != "minutes"}
    for name, folder in folders.items():
        write_one(folder, *MARKETS[name])
    return folders


def test_the_page_escapes_everything_and_fetches_nothing(drawn):
    _, page, performance = drawn
    assert "<script" not in page and html.escape(HOSTILE) in page
    assert "http" not in page.replace("http-equiv", "") and 'src="data:image/png;base64,' in page
    assert html.escape(performance.verdict) in page and html.escape(performance.profit_verdict) in page
    assert html.escape(f"channel train, {HOSTILE}: price in close") in page
    assert "1,234 minutes in 2 gaps, the longest 1,000 after 2023-01-01 01:39" in page


@pytest.mark.slow
def test_a_page_on_a_test_part_says_so_and_what_chose_and_what_a_refit_cannot_know(tmp_path, drawn):
    write_one(tmp_path, 1.1, pd.Timedelta(hours=1), TEST, refit=True, fee=0.0005)
    page = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "is of the test part: 20,000 hours" in page and "which chose nothing" in page
    assert "20,000 test hours" in page and "On validation it is fine. &lt;script" in page
    assert "is then trained once more on every row, the test part included" in page
    assert "half the spread and a fee of 0.05 % of its price; nothing else is paid" in page
    assert "chosen by" not in page and "flatters" not in page.replace(HOSTILE, "")
    of_validation = " ".join(drawn[1].split())
    assert (
        "is of the validation part: 20,000 minutes" in of_validation
        and "was chosen by val_loss on these" in of_validation
    )
    assert "refit=true" not in of_validation and "half the spread; nothing else" in of_validation


def test_every_held_out_bar_is_kept(drawn):
    folder, _, performance = drawn
    kept = pd.read_parquet(folder / "positions.parquet")
    assert kept.reset_index().columns.tolist() == ["dt", "mid", "optimal_position", "probability", "prediction"]
    assert len(kept) == 20_000 and str(kept.index.tz) == "UTC"
    assert (kept["prediction"] == np.where(kept["probability"] > 0.5, 1, -1)).all()
    labels = kept["optimal_position"] > 0
    assert np.mean((kept["prediction"] > 0) == labels) == pytest.approx(performance.scores["model"]["accuracy"].value)


def colours(picture):
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    return {tuple(map(int, pixel)) for pixel in pixels[::3]}


def test_pictures_are_files_in_colours_that_everybody_tells_apart(drawn):
    folder, _, _ = drawn
    assert sorted(path.stem for path in folder.glob("*.png")) == PICTURES
    blue, orange, green = (0, 114, 178), (230, 159, 0), (0, 158, 115)
    assert {blue, orange} <= colours((folder / "position_1.png").read_bytes())
    assert {blue, green} <= colours((folder / "profit.png").read_bytes())
    assert orange not in colours((folder / "profit.png").read_bytes())
    assert {blue, green, orange} <= colours((folder / "profit_optimal.png").read_bytes())


def test_the_stretches_drawn_are_spread_evenly_and_not_chosen():
    assert stretches(43_200) == [0, 12_960, 25_920, 38_880]
    assert stretches(5000) == [0] and stretches(9000) == [0, 4680]


def test_the_page_in_a_browser(browser, drawn):
    folder, _, performance = drawn
    browser.get((folder / "report.html").as_uri())
    assert browser.get_log("browser") == []
    images = browser.execute_script(
        "return [...document.images].map(image => [image.alt, image.naturalWidth, image.getBoundingClientRect().right])"
    )
    assert len(images) == len(PICTURES)
    assert all(
        alt and width > 800 and right <= browser.execute_script("return innerWidth") for alt, width, right in images
    )
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.title == HOSTILE
    said = [performance.decided_verdict, performance.verdict, performance.profit_verdict, HOSTILE]  # the look
    assert [sentence.text for sentence in browser.find_elements("class name", "verdict")] == said
    null = [cell.text.split("\n")[0] for cell in browser.find_elements("css selector", "tr.null td")]
    assert len(browser.find_elements("css selector", "table.luck td")) == 12
    walk = performance.random_walk
    assert null[0] == "random walk (simulated)" and null[1] == f"{walk['accuracy'].value:.4f}"
    assert null[3] == f"{walk['decided_accuracy'].value:.4f}" and len(null) == 9
    small = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('td, small, p')].map("
        "element => parseFloat(getComputedStyle(element).fontSize)))"
    )
    assert small >= 12


def test_a_page_calls_bars_by_their_length_and_shows_digits_that_mean_something(browser, drawn_in_bars):
    for name, folder in drawn_in_bars.items():
        browser.get((folder / "report.html").as_uri())
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        text = browser.find_element("tag name", "body").text
        assert f"20,000 validation {name}" in text and f"1,234 {name} in 2 gaps" in text
        assert re.search(rf"bootstrap in blocks of [\d,]+ {name}\.", text)
        assert "minute" not in text.replace("bars of 5 minutes", "")
        cells = [cell.text for cell in browser.find_elements("css selector", "td.money")]
        assert len(cells) == 12 and all(re.match(r"-?[\d,.]*[1-9]", cell) for cell in cells), cells
        assert not re.search(r"\d[eE][-+]\d", " ".join(cells))


@pytest.mark.slow
def test_a_report_that_cannot_be_written_does_not_lose_the_model(tmp_path, files_url):
    job = JobFolder(tmp_path / "ml", SMALL | {"model_db": files_url}, channel={"p.parquet": sample_market(rows=6000)})
    (job.base / "output/data").rmdir()
    (job.base / "output/data").write_text("in the way")
    assert job.run() == 0, job.errors
    assert "NO REPORT: FileExistsError" in job.output and "is whole" in job.output
    assert job.metrics["published"] is True and job.metrics["performance"]["verdict"]


@pytest.mark.slow
def test_a_job_leaves_its_report(tmp_path):
    settings = SMALL | {"prices_channel": "train", "model_db": f"files:/{tmp_path / 'kydb'}"}
    job = JobFolder(tmp_path / "ml", settings, channel={"p.parquet": sample_market(rows=6000)})
    assert job.run(TRAINING_JOB_NAME="nightly") == 0, job.errors
    page = (job.base / "output/data/report.html").read_text(encoding="utf-8")
    verdict = job.metrics["performance"]["verdict"]
    assert html.escape(verdict) in page and verdict in job.output
    assert f"report: {job.base}/output/data/report.html" in job.output
    record = json.loads((job.base / "model/job.json").read_text())
    assert record["data"]["sha256"] in page and "<title>nightly</title>" in page
    assert "Warning" not in job.errors
