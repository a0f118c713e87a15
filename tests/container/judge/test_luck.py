"""How much of the best of many is luck, in sentences; the statistics are tested in test_selection.py."""

import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from judging import MINUTE, SMALL, market
from ml.judge.daily import Members, block_days, daily_of, daily_of_members, daily_of_model, luck_of_members
from ml.judge.instruments import Instrument
from ml.judge.luck import luck_of_results
from ml.judge.performance import MODEL, measure

DAYS = [date(2020, 1, 1) + timedelta(number) for number in range(320)]
FIGURES = ("sharpe", "expected_best_sharpe", "deflated_sharpe", "overfitting_probability", "spa_p_value")


def tries(seed=0, days=320, skill=0.0):
    """Daily results of 20 tries, the first of which may have skill, and of a rule without any."""
    results = np.random.default_rng(seed).normal(size=(days, 21))
    results[:, 0] += skill
    return results[:, :20], results[:, 20], DAYS[:days]


def luck(results, rule, days, chosen=0, **options):
    return luck_of_results(results, rule, days, chosen=chosen, block=1, **{"tries": 20, "rule": "a rule"} | options)


def test_luck_is_called_luck_and_skill_is_not():
    results, rule, days = tries()
    lucky = luck(results, rule, days, chosen=int((results.mean(axis=0) / results.std(axis=0)).argmax()))
    assert lucky["verdict"] == "Luck alone can explain the best of 20 tries."
    assert lucky["sharpe"] > 0 and lucky["deflated_sharpe"] < 0.95 and lucky["spa_p_value"] > 0.05
    skilled = luck(*tries(skill=0.4))
    assert skilled["verdict"] == "Luck alone does not explain the best of 20 tries."
    assert skilled["sharpe"] > skilled["expected_best_sharpe"] and skilled["overfitting_probability"] < 0.05


def test_each_figure_has_a_sentence_with_its_number():
    found = luck(*tries(skill=0.1))
    titles, values, sentences = zip(*found["rows"], strict=True)
    assert [float(value) for value in values] == pytest.approx([found[name] for name in FIGURES[1:]], abs=5e-3)
    assert (
        f"would be expected to show {values[0]}; the chosen one shows {found['sharpe']:.2f}, over 320" in sentences[0]
    )
    assert all(f"{found[name]:.1%}" in text for name, text in zip(FIGURES[2:], sentences[1:], strict=True))
    assert len(set(titles)) == 4 and "the best rule (a rule)" in sentences[3]


def test_tries_that_left_no_results_raise_the_bar():
    few, many = luck(*tries(skill=0.15)), luck(*tries(skill=0.15), tries=2000)
    assert many["deflated_sharpe"] < few["deflated_sharpe"] and many["known"] == 20
    assert "1,980 of them left no results" in many["rows"][0][2]


def test_days_that_are_too_few_are_told():
    found = luck(*tries(days=3))
    assert [found[name] for name in FIGURES[2:]] == [None] * 3
    assert found["verdict"].endswith("cannot be told from the results of 20 on 3 days of validation.")
    assert [row[1] for row in found["rows"][1:]] == ["–"] * 3
    assert luck(*tries(days=1))["sharpe"] is None
    assert luck(tries()[0], None, DAYS)["spa_p_value"] is None


@pytest.mark.slow
def test_the_launcher_needs_no_scipy_for_it():
    code = "import sys; sys.modules['scipy'] = sys.modules['pandas'] = None; import ml.judge.luck as luck, datetime\n"
    code += "import numpy as np; results = np.random.default_rng(0).normal(size=(40, 5))\n"
    code += "days = [datetime.date(2020, 1, 1) + datetime.timedelta(day) for day in range(40)]\n"
    code += "found = luck.luck_of_results(results, results[:, 0], days, chosen=1, tries=5, block=1)\n"
    code += "assert all(found[name] is not None for name in ('deflated_sharpe', 'spa_p_value'))"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "container"})


# Daily results


def test_daily_profits_are_those_of_the_positions_before_costs():
    history = market(6000)
    probability = np.random.default_rng(1).uniform(size=2000)
    found = measure([Instrument(history, 3000, probability)], SMALL, MINUTE).daily
    mid = history["mid"].to_numpy()[-2000:]
    held = np.where(probability[:-1] > 0.5, 1, -1)
    expected = pd.Series(1e4 * held * np.diff(mid) / mid[:-1], history.index[-1999:]).groupby(
        lambda time: time.floor("D")
    )
    np.testing.assert_allclose(found[MODEL], expected.sum())
    alone = daily_of_model([Instrument(history, 3000, probability)], SMALL)
    pd.testing.assert_series_equal(alone[MODEL], found[MODEL])
    kept = daily_of(found, 1440, MINUTE)
    assert kept["days"] == [f"{day:%Y-%m-%d}" for day in found.index] and kept["rule"] == found.columns[1]
    assert len(kept["model"]) == len(kept["best_rule"]) and "best_rule" not in daily_of(alone, 1440, MINUTE)


def test_instruments_add_up_on_the_days_they_share():
    history = market(6000)
    parts = [
        Instrument(history, 3000, np.full(2000, 0.9), "A"),
        Instrument(history[:5000], 3000, np.full(500, 0.1), "B"),
    ]
    together = daily_of_model(parts, SMALL)[MODEL]
    one, other = (daily_of_model([each], SMALL)[MODEL] for each in parts)
    pd.testing.assert_series_equal(together, one.add(other, fill_value=0))


def test_a_block_has_whole_days():
    hour = pd.Timedelta(hours=1)
    assert (block_days(1440, MINUTE), block_days(1441, MINUTE), block_days(60, MINUTE), block_days(1200, hour)) == (
        1,
        2,
        1,
        50,
    )


@pytest.mark.slow
def test_members_of_a_population_are_tries():
    history = market(60_000, predictability=0)
    rng = np.random.default_rng(1)
    probabilities = rng.uniform(size=(6, 30_000))
    knows = (history["position"].to_numpy()[-30_000:] > 0) & (rng.random(30_000) < 0.7)
    probabilities[2] = np.where(knows, 0.9, probabilities[2])
    judged = [Instrument(history, 20_000, probabilities[2])]
    daily = measure(judged, SMALL, MINUTE).daily
    members = Members(np.arange(30_000), probabilities, numbers=[0, 1, 3, 4, 5, 7], chosen=3, tries=8)
    of_each = daily_of_members(judged, members, SMALL)
    assert list(of_each) == members.numbers
    pd.testing.assert_series_equal(of_each[3], daily[MODEL], check_names=False)
    found = luck_of_members(of_each, members, daily.iloc[:, 1], 1)
    assert (found["tries"], found["known"], found["chosen"], found["rule"]) == (8, 6, "3", daily.columns[1])
    year = np.sqrt(365.25 * len(daily) / ((daily.index[-1] - daily.index[0]).days + 1))
    assert found["sharpe"] == pytest.approx(daily[MODEL].mean() / daily[MODEL].std() * year, rel=1e-5)
    assert found["spa_p_value"] < 0.01 and found["overfitting_probability"] < 0.01
