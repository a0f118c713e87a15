"""Which files, rows or keys are which instrument's."""

import pandas as pd
import pytest

from ml.data.listing import list_channel
from ml.data.prices import labelled_prices, together
from ml.data.sample_market import sample_market, sample_universe
from ml.data.universe import read_curves, read_instruments
from ml.errors import UserError
from ml.hyperparameters import parse_settings
from ml.timeseries import time_series

MARKETS = dict(sample_universe(3, 600))


def channel(folder, files):
    for name, frame in files.items():
        path = folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path) if ".csv" in name else frame.to_parquet(path)
    return folder / "train"


def histories_of(folder):
    return read_instruments(list_channel(folder), source="channel train")


def read(folder):
    return {name: history.frame for name, history in histories_of(folder)}


def assert_is_the_universe(found):
    assert list(found) == sorted(MARKETS)
    for name, frame in found.items():
        pd.testing.assert_frame_equal(
            frame[["mid", "bid", "ask"]], MARKETS[name][["mid", "bid", "ask"]], check_freq=False
        )


@pytest.mark.parametrize("form", ["{}.parquet", "{}.csv", "{}.csv.gz", "{}/part-0.parquet"])
def test_files_or_folders_that_lie_over_each_other_are_instruments_of_their_names(tmp_path, form):
    assert_is_the_universe(read(channel(tmp_path, {form.format(name): frame for name, frame in MARKETS.items()})))


@pytest.mark.parametrize("name", ["all.parquet", "all.csv"])
def test_a_column_symbol_names_the_instruments_in_whatever_order_rows_come(tmp_path, name):
    rows = pd.concat([frame.assign(Symbol=symbol) for symbol, frame in MARKETS.items()])
    assert_is_the_universe(read(channel(tmp_path, {name: rows.sort_index(kind="stable")})))


def test_folders_of_years_and_files_that_follow_each_other_are_one_history(tmp_path):
    market = sample_market(600)
    parts = {f"year={year}/part.parquet": market.iloc[at : at + 300] for year, at in ((2019, 0), (2020, 300))}
    found = read(channel(tmp_path, parts))
    assert list(found) == [""] and len(found[""]) == 600


def test_a_single_symbol_is_the_history_that_it_was_without_the_column(tmp_path):
    market = sample_market(600)
    plain, named = (
        together(histories_of(channel(tmp_path / name, {"p.parquet": frame})), parse_settings({"horizon": 30}))
        for name, frame in (("plain", market), ("named", market.assign(symbol="BTC")))
    )
    assert plain.facts["sha256"] == named.facts["sha256"] and "symbol" not in named.frame


def test_two_files_of_one_instrument_that_contradict_each_other_stay_an_error(tmp_path):
    market = sample_market(600)
    other = market.copy()
    other.iloc[5] += 1
    with pytest.raises(UserError, match="comes twice with different prices"):
        read(channel(tmp_path, {"one.parquet": market, "two.parquet": other}))


def test_some_files_with_a_symbol_and_some_without_are_refused(tmp_path):
    files = {"a.parquet": MARKETS["NOISE"].assign(symbol="A"), "b.parquet": MARKETS["SAMPLE_1"]}
    with pytest.raises(UserError, match=r"a.parquet has a column symbol and b.parquet has none"):
        read(channel(tmp_path, files))


@pytest.mark.parametrize("symbols", [("", ""), ("A", "B")], ids=["one", "two"])
def test_files_that_lie_too_far_apart_are_told(tmp_path, symbols):
    files = {}
    for name, year, symbol in zip(("a.csv", "b.csv"), (1700, 2200), symbols, strict=True):
        times = pd.date_range(f"{year}-01-01", periods=600, freq="min", tz="UTC")
        frame = MARKETS["NOISE"].set_axis(times.rename("dt"))
        files[name] = frame.assign(symbol=symbol) if symbol else frame
    with pytest.raises(UserError, match=r"more than 292 years, from 1700-01-01 in a.csv to 2200-01-01 in b.csv"):
        read(channel(tmp_path, files))


def test_a_row_without_its_symbol_is_told(tmp_path):
    rows = MARKETS["NOISE"].assign(symbol=["A", "", *["B"] * 598])
    with pytest.raises(UserError, match=r"symbol is empty at line 3 .*; name the instrument of every row"):
        read(channel(tmp_path, {"all.csv": rows}))


def test_every_instrument_that_cannot_be_used_is_told(tmp_path):
    short = {name: frame.iloc[:20] if name != "NOISE" else frame for name, frame in MARKETS.items()}
    folder = channel(tmp_path, {f"{name}.parquet": frame for name, frame in short.items()})
    with pytest.raises(UserError, match=r"SAMPLE_1: 20 rows are too few.*; SAMPLE_2: 20 rows are too few"):
        labelled_prices(parse_settings({"horizon": 30}), {"train": folder}, 10**10)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    import kydb

    url = f"files:/{tmp_path_factory.mktemp('kydb')}"
    db = kydb.connect(url)
    for name, frame in MARKETS.items():
        time_series(db, f"/prices/{name}").replace(frame)
    db["/prices/broken"] = 5
    return url


def curves(url, keys):
    return {name: history.frame for name, history in read_curves(url, keys)}


def test_a_pattern_or_a_list_of_keys_is_a_universe_read_with_one_line(database, capsys):
    assert sorted(curves(database, "/prices/SAMPLE_*")) == ["SAMPLE_1", "SAMPLE_2"]
    assert capsys.readouterr().out.count("\n") == 1
    found = curves(database, "/prices/NOISE,/prices/SAMPLE_1")
    assert list(found) == ["NOISE", "SAMPLE_1"]
    assert list(curves(database, "/prices/NOISE")) == [""]


def test_missing_and_broken_curves_are_told_together(database):
    with pytest.raises(UserError, match=r"3 of 4 curves cannot be read: .*nothing_1.*nothing_2.*broken"):
        curves(database, "/prices/nothing_1,/prices/nothing_2,/prices/NOISE,/prices/broken")
    with pytest.raises(UserError, match=r"no key in .* matches /prices/X\*; in its folder is NOISE, SAMPLE_1"):
        curves(database, "/prices/X*")


def test_prices_say_which_bars_are_decided_where_the_job_labels_them_all(tmp_path):
    folder = channel(tmp_path, {f"{name}.csv": frame for name, frame in MARKETS.items()})
    settings = parse_settings({"horizon": "60", "lookback": "30", "train_on": "decided"})
    found = labelled_prices(settings, {"train": folder}, room=10**9).frame
    assert found["decided"].dtype == bool and 0 < found["decided"].mean() < 0.5
    MARKETS["SAMPLE_2"].assign(position=1.0).to_csv(folder / "SAMPLE_2.csv")
    with pytest.raises(UserError, match=r"^SAMPLE_2: train_on=decided needs positions that the job makes itself"):
        labelled_prices(settings, {"train": folder}, room=10**9)
    mixed = labelled_prices(parse_settings({"horizon": "60"}), {"train": folder}, room=10**9).frame
    assert "decided" not in mixed
