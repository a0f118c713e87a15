import numpy as np
import pandas as pd
import pytest

from histories import history
from ml.data.history import checked, fingerprint, gaps
from ml.errors import UserError


def setter(column, value, row=50):
    return lambda frame: frame.assign(**{column: frame[column].where(frame.index != row, value)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setter("mid", np.nan), "mid is NaN in 1 of 100 rows, the first at 2020-01-01 00:50:00.00:00; drop or fill"),
        (setter("bid", -np.inf), "bid is infinite in 1 of 100 rows"),
        (setter("mid", 0.0), r"mid is not above 0 in 1 of 100 rows, the first at 2020-01-01 00:50:00\+00:00 \(0.0\)"),
        (setter("ask", -3.0), r"ask is not above 0 .* \(-3.0\)"),
        (setter("position", 2.0), r"position is not -1, 0 or 1 .* \(2.0\)"),
        (setter("position", np.nan), "position is NaN"),
        (setter("bid", 1e6), "bid is above ask in 1 of 100 rows"),
        (setter("dt", pd.Timestamp("2020-01-01 00:49", tz="UTC")), "a time comes twice in 1 of 100 rows"),
        (setter("dt", pd.Timestamp("2019-01-01", tz="UTC")), "times go backwards in 1 of 100 rows"),
        (lambda frame: frame.drop(columns=["mid", "ask"]), "a column mid is needed, or bid and ask"),
        (lambda frame: frame.drop(columns="dt"), "it must have a column or index dt"),
        (lambda frame: frame.iloc[:0], "has no rows"),
    ],
)
def test_a_wrong_frame_is_told_with_its_first_row(change, message):
    frame = history(100, columns=("mid", "position", "bid", "ask")).reset_index()
    with pytest.raises(UserError, match=f"^the test:? {message}"):
        checked(change(frame), source="the test")


def test_mid_is_the_middle_of_bid_and_ask_where_it_is_not_given():
    frame = checked(history(10, columns=("bid", "ask")), source="the test")
    np.testing.assert_array_equal(frame["mid"], (frame["bid"] + frame["ask"]) / 2)


def test_a_bid_without_an_ask_is_no_use_and_is_dropped():
    assert list(checked(history(10, columns=("mid", "bid")), source="the test")) == ["mid"]


def test_gaps_are_counted_not_hidden():
    frame = history(100)
    found = gaps(frame.drop(frame.index[[10, 11, 12, 40]]))
    assert found[:3] == (2, 4, 3) and found.longest_at == "2020-01-01 00:09:00+00:00"
    assert str(found).startswith("4 minutes missing in 2 gaps (the longest 3 after")
    assert str(gaps(frame)) == "no minute missing"


def test_the_fingerprint_sees_every_value_and_time():
    frame = history(100)
    assert fingerprint(frame) == fingerprint(frame.copy())
    for changed in (frame + 1e-9, frame.iloc[1:], frame.shift(freq="min"), frame[["mid"]]):
        assert fingerprint(changed) != fingerprint(frame)
