"""The price files of ../shared/cases, read by what a job calls: as cases.json says."""

import pandas as pd
import pytest

from ml.data.columns import Reading
from ml.data.sources import read_channel
from ml.errors import UserError
from ml.hyperparameters import parse_settings
from price_files import written_cases

# Known here so that each is a test of its own; the test below fails where the list is not the same.
NAMES = str.split(
    "plain bom-crlf utf16 upper-names blanks-in-names ohlcv-timestamp ohlcv-date epoch-s epoch-ms epoch-us "
    "klines-no-header klines-no-header-unasked semicolons tabs txt metatrader date-and-time histdata dd.mm.yyyy "
    "which-is-the-month the-month-is-told comment-first newest-first zip bz2 xz gz-by-another-name ccxt-json "
    "feather parquet-index-date parquet-timestamp folder-of-days thousands-unquoted decimal-comma one-broken-line "
    "header-alone no-price no-time nan-rows same-rows-twice other-rows-twice crossed-quotes mid-outside never-moves "
    "a-tick-at-a-hundredth clock-change clock-change-told bars-of-seconds bars-of-five-minutes bars-of-hours trades "
    "trades-resampled "
)


@pytest.fixture(scope="module")
def cases(shared, tmp_path_factory):
    return written_cases(shared, tmp_path_factory.mktemp("cases"))


def test_all_cases_are_tested(cases):
    assert sorted(cases[1]) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_case_is_read_or_refused_as_it_says(cases, name):
    folder, case = cases[0] / name, cases[1][name]
    settings = parse_settings(case["options"])
    try:
        history = read_channel(folder, settings.start_date, settings.end_date, Reading.of(settings))
    except UserError as error:
        told = str(error)
        assert case["outcome"] == "refused", told
        assert len(told) < 1000 and "\n" not in told
    else:
        told, frame = str(history.understood), history.frame
        assert case["outcome"] == "read", told
        assert len(frame) == case["rows"]
        for at, which in ((0, "first"), (-1, "last")):
            assert frame.index[at] == pd.Timestamp(case[which], tz="UTC")
            assert frame["mid"].iloc[at] == pytest.approx(case[f"{which}_price"], rel=1e-12)
    for words in case["says"]:
        assert words.lower() in told.lower()
