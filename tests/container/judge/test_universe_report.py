"""Pages of one, two and a hundred instruments in a browser, as wide as a laptop and as a phone."""

import numpy as np
import pandas as pd
import pytest

from judging import MINUTE, SMALL
from ml.data.sample_market import sample_universe
from ml.judge.instruments import Instrument
from ml.judge.performance import fold_row, measure
from ml.judge.report import shown_instruments, write_report
from ml.optimal_position import labelled

HOSTILE = "<b>$x$</b> & a very long name of an instrument that nobody would choose"


def write_page(folder, count, rows=9000):
    """Writes the page of so many instruments, one of them with a name that no page should take as it is."""
    rng, instruments, parts = np.random.default_rng(1), [], []
    for number, (name, market) in enumerate(sample_universe(count, rows)):
        history = labelled(market, SMALL.horizon, 0)
        name = HOSTILE if number == 0 else name
        right = np.where(history["position"] > 0, 0.6, 0.4)[-7500:]
        probability = np.clip(right + rng.normal(0, 0.3 + 0.2 * number / count, 7500), 0, 1)
        probability[3000:3100] = np.nan
        instruments.append(Instrument(history, 1400, probability, name))
        parts.append(history[["mid", "position"]].assign(symbol=name))
    frame = pd.concat(parts)
    frame = frame.assign(symbol=frame["symbol"].astype("category"))
    found = measure(instruments, SMALL, MINUTE)
    numbers = {"loss": 0.6, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.6}
    record = {
        "job": f"universe-{count}",
        "device": "2 CPU cores",
        "libraries": {},
        "settings": {"threshold": 0.0, "fee": 0.0, "refit": False, "monitor": "val_loss"},
        "data": {
            "rows": len(frame),
            "train_rows": 1400 * count,
            "validation_rows": 7500 * count,
            "test_rows": 0,
            "buy_share": 0.5,
            "sha256": "ab" * 32,
            "source": {"line": "2 instruments"},
            "segments": {"summary": ["segments: 2 with max_gap 4d, no windows lost to cuts"]},
        },
    }
    row = fold_row(1, (1400, 7500), history.index, 1, numbers, found)
    metrics = {"best_epoch": 1, "epochs": [{"epoch": 1} | numbers], "folds": [row]}
    write_report(folder, record, metrics | {"performance": {"metrics": found.metrics}}, frame, found)
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    found = {count: (tmp_path_factory.mktemp("page"),) for count in (2, 100)}
    return {count: (folder, write_page(folder, count)) for count, (folder,) in found.items()}


@pytest.mark.parametrize("count", [2, 100])
def test_a_row_an_instrument_with_most_of_a_hundred_folded(browser, pages, count):
    folder, found = pages[count]
    browser.get((folder / "report.html").as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    names = [cell.text for cell in browser.find_elements("css selector", "table.instruments tr td:first-child")]
    shown = [name for name in names if name]
    ranked = [score.symbol for score in found.instruments]
    if count == 2:
        assert shown == ranked and HOSTILE in shown
    else:
        assert shown == [*ranked[:10], "80 more", *ranked[-10:]]
        browser.find_element("tag name", "summary").click()
        cells = browser.find_elements("css selector", "details table.instruments tr td:first-child")
        assert [cell.text for cell in cells] == ranked
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    titles = [image.get_attribute("alt") for image in browser.find_elements("css selector", "img[alt*=': ']")]
    assert [title.split(": ")[0].split()[-1] for title in titles] == list(shown_instruments(found.instruments))
    assert f"minutes of {count} instruments" in browser.find_elements("class name", "verdict")[1].text
    assert "basis points" in browser.find_elements("class name", "verdict")[2].text
    note = browser.find_element("class name", "note").text
    assert f"{100 * count:,} minutes have no prediction" in note.replace("\n", " ")


def test_positions_name_their_instrument(pages):
    folder, _ = pages[2]
    kept = pd.read_parquet(folder / "positions.parquet")
    assert set(kept["symbol"]) == {HOSTILE, "NOISE"} and len(kept) == 15_000
    assert kept["probability"].isna().sum() == kept["prediction"].isna().sum() == 200
