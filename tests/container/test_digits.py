import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.digits import amount, amounts, share, tick


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([-5721.75, 12.5], ["-5,722", "12"]),
        ([2_060_394.4], ["2,060,394"]),
        ([1.10254, -0.00312], ["1.103", "-0.003"]),
        ([0.00002934, 0.0], ["0.00002934", "0.00000000"]),
        ([2.9e-9], ["2.900e-09"]),
        ([0.0], ["0"]),
        ([math.nan, 3.0], ["–", "3.000"]),
    ],
)
def test_amounts_of_any_size_keep_four_digits(values, texts):
    assert amounts(values) == texts


def test_a_sign_is_shown_where_asked_for_and_never_before_a_zero():
    assert amount(0.0123456, "+") == "+0.01235" and share(0.1, "+") == "+0.1000"
    assert share(-0.00001) == "0.0000" and amounts([-0.0001, 5.0]) == ["0.000", "5.000"]


@given(st.floats(1e-14, 1e14), st.sampled_from([1, -1]))
def test_an_amount_says_its_value(size, sign):
    assert float(amount(sign * size).replace(",", "")) == pytest.approx(sign * size, rel=6e-4)


def test_a_tick_has_no_decimal_too_many():
    assert [tick(value, [1.1, 1.2, 1.3]) for value in (1.1, 1.2)] == ["1.1", "1.2"]  # 1.2 - 1.1 is not quite 0.1
    assert tick(0.25, [0.0, 0.25, 0.5]) == "0.25" and tick(1e6, [0, 5e5, 1e6]) == "1,000,000"
    assert tick(5.0, [5.0]) == "5.000"


@given(st.floats(1e-12, 1e9), st.integers(-20, 20), st.sampled_from([1, 2, 2.5, 5]))
def test_neighbouring_ticks_are_told_apart(size, first, step):
    step *= 10.0 ** math.floor(math.log10(size))
    ticks = [step * (first + i) for i in range(6)]
    texts = [tick(value, ticks) for value in ticks]
    assert len(set(texts)) == 6
    assert [float(text.replace(",", "")) for text in texts] == pytest.approx(ticks, rel=1e-3, abs=step / 100)
