"""`import`: price files become a time series in KYDB."""

import json

import kydb
import pandas as pd
import pytest
from click.testing import CliRunner

from launch import main
from ml.data.sources import read_kydb
from price_files import iso, lines, prices

KEY = "/symbols/EURUSD"
ROWS = prices(3000, "2024-01-02")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `import` in a folder of its own, into one KYDB; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def launch(*arguments, to=f"files:/{tmp_path / 'kydb'}", key=KEY):
        result = CliRunner().invoke(main, ["import", *map(str, arguments), "--to", to, "--key", key])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    launch.url = f"files:/{tmp_path / 'kydb'}"
    (tmp_path / "first.csv").write_text(iso(ROWS[:2000]))
    (tmp_path / "later.csv").write_text(iso(ROWS[2000:]))
    return launch


def stored(url):
    return read_kydb(url, KEY).frame["mid"]


def test_files_become_the_price_history_that_a_job_reads(run):
    code, out, err = run("later.csv", "first.csv")
    assert code == 0 and err.startswith("read: channel train, 2 files (CSV): times in dt")
    assert out == (
        f"wrote 3,000 rows from 2024-01-02 00:00:00+00:00 to 2024-01-04 01:59:00+00:00 to {KEY} in {run.url}; "
        f"a job reads them with --set prices_db={run.url} --set prices_key={KEY}\n"
    )
    pd.testing.assert_series_equal(
        stored(run.url), ROWS.set_index("time")["price"].tz_localize("UTC"), check_names=False
    )


def test_settings_say_how_files_are_read(run, tmp_path):
    rows = prices(60, "2024-01-02 09:00")
    (tmp_path / "p.txt").write_text(lines(rows, lambda time, price: f"{time:%Y%m%d %H%M%S};1;{price}"))
    code, _, _ = run("p.txt", "--set", "time_column=1", "--set", "price_column=3", "--set", "timezone=Asia/Tokyo")
    assert code == 0 and stored(run.url).index[0] == pd.Timestamp("2024-01-02", tz="UTC")


def test_later_rows_are_appended_and_earlier_ones_refused(run):
    run("first.csv")
    code, out, _ = run("later.csv", "--append", "--json")
    assert (code, json.loads(out)["Rows"]) == (0, 1000) and len(stored(run.url)) == 3000
    code, out, err = run("first.csv", "--append")
    assert (code, out) == (1, "") and len(stored(run.url)) == 3000
    assert err.splitlines()[-1].startswith(f"error: the frame to append to {KEY} begins at 2024-01-02 00:00:00+00:00")


def test_rows_are_replaced_and_others_stay(run, tmp_path):
    run("first.csv", "later.csv")
    (tmp_path / "mended.csv").write_text(iso(ROWS[1000:1500].assign(price=8)).replace(",8.00", ",8.5", 1))
    assert run("mended.csv", "--replace")[0] == 0
    found = stored(run.url)
    assert len(found) == 3000 and found.iloc[1000] == 8.5 and (found[1001:1500] == 8).all() and found.iloc[999] < 102


def test_nothing_that_is_there_is_touched_unless_it_is_said_how(run):
    run("first.csv")
    code, out, err = run("later.csv")
    assert (code, out) == (1, "") and len(stored(run.url)) == 2000
    assert f"error: there is already something under {KEY} in {run.url}; give --append to add later rows" in err
    kydb.connect(run.url)["/number"] = 1
    code, _, err = run("first.csv", "--replace", key="/number")
    assert code == 1 and err.endswith("error: /number holds a int and no TimeSeries; choose another key\n")
    assert kydb.connect(run.url)["/number"] == 1


@pytest.mark.parametrize(
    ("to", "key", "told"),
    [
        ("nosql://x", KEY, "--to must be a KYDB of the kinds"),
        ("files://x", "a b", "--key must be a key such as"),
        ("redis://127.0.0.1:1/x", KEY, f"error: {KEY} in redis://127.0.0.1:1/x cannot be written: ConnectionError"),
    ],
)
def test_a_wrong_place_is_told_in_a_line(run, to, key, told):
    code, out, err = run("first.csv", to=to, key=key)
    assert (code, out) == (1, "") and told in err.splitlines()[-1]


def test_long_writes_are_told_while_they_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr("price_commands._SECONDS_BETWEEN_LINES", -1)
    (tmp_path / "long.csv").write_text(iso(prices(70_000, "2024-01-02")))
    assert "wrote 65,536 of 70,000 rows\nwrote 70,000 of 70,000 rows\n" in run("long.csv")[2]


def test_wrong_files_write_nothing(run, tmp_path):
    (tmp_path / "wrong.csv").write_text("dt,volume\n2024-01-02T00:00:00Z,1\n")
    code, out, err = run("wrong.csv")
    assert (code, out) == (1, "") and "no column is known for prices" in err and not (tmp_path / "kydb").exists()
