import json

import numpy as np
import pytest

from ml.learn.members import MemberResult, best_first, members_of, widest_of, with_lookbacks
from ml.settings import Settings


def ranges(**kinds):
    """ParameterRanges as JSON: of each kind the entries."""
    return json.dumps({f"{kind.capitalize()}ParameterRanges": entries for kind, entries in kinds.items()})


def entry(name, low, high, scaling=None):
    found = {"Name": name, "MinValue": str(low), "MaxValue": str(high)}
    return found | ({"ScalingType": scaling} if scaling else {})


def drawn(name, population, text, **settings):
    members = members_of(Settings(population=population, ranges=text, **settings))
    return [member.point[name] for member in members]


def test_a_job_of_one_network_has_no_members():
    assert members_of(Settings()) == []


def test_points_are_drawn_by_the_seed():
    text = ranges(continuous=[entry("dropout", 0, 0.5), entry("learning_rate", 0.001, 0.1)])
    one, same, other = (drawn("dropout", 8, text, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert drawn("dropout", 4, text) == one[:4], "a larger population begins with the smaller one"


def test_every_eighth_of_a_range_has_one_of_eight_points():
    dropouts = drawn("dropout", 8, ranges(continuous=[entry("dropout", 0, 0.8), entry("label_smoothing", 0, 0.1)]))
    assert sorted(int(value * 10) for value in dropouts) == list(range(8))


def test_a_logarithmic_range_is_covered_by_factors():
    rates = drawn("learning_rate", 64, ranges(continuous=[entry("learning_rate", 1e-4, 1e-1, "Logarithmic")]))
    counts = np.histogram(np.log10(rates), bins=[-4, -3, -2, -1])[0]
    assert counts.min() >= 21 and counts.sum() == 64


def test_a_reverse_logarithmic_range_is_dense_at_its_high_end():
    dropouts = drawn("dropout", 64, ranges(continuous=[entry("dropout", 0, 0.99, "ReverseLogarithmic")]))
    assert sum(value > 0.9 for value in dropouts) in (31, 32, 33)


@pytest.mark.parametrize("scaling", ["Linear", "Logarithmic", None])
def test_whole_numbers_reach_both_ends_and_nothing_beyond(scaling):
    seeds = drawn("seed", 64, ranges(integer=[entry("seed", 1, 4, scaling)]))
    assert set(seeds) == {1, 2, 3, 4} and all(type(seed) is int for seed in seeds)


def test_lookback_and_nodes_are_logarithmic_where_nothing_is_said():
    lookbacks = drawn("lookback", 64, ranges(integer=[entry("lookback", 10, 1000)]))
    assert sum(lookback < 100 for lookback in lookbacks) in range(30, 35)


def test_values_are_drawn_from_categories():
    nodes = drawn("nodes", 64, ranges(categorical=[{"Name": "nodes", "Values": ["64", "128"]}]))
    assert nodes.count(64) == nodes.count(128) == 32


def test_members_are_jobs_of_their_own_on_the_rows_of_the_longest_lookback():
    shared = Settings(
        points='[{"lookback": 60, "nodes": 64}, {"lookback": 120}, {"seed": "7"}]', halving=2.0, lookback=90
    )
    short, longest, own = (member.settings for member in members_of(shared))
    assert short == Settings(lookback=60, nodes=64, longest_lookback=120)
    assert longest == Settings(lookback=120)
    assert own == Settings(lookback=90, seed=7, longest_lookback=120)
    assert {each.rows_lookback for each in (short, longest, own)} == {120}


def test_the_rows_may_be_those_of_a_longer_lookback_still():
    members = members_of(Settings(points='[{"lookback": 60}, {"lookback": 240}]', longest_lookback=500))
    assert {member.settings.longest_lookback for member in members} == {500}
    assert widest_of(members).rows_lookback == 500 and widest_of(members).lookback == 240
    assert [settings.lookback for settings in with_lookbacks(members)] == [60, 240]


def test_the_best_is_first_by_the_monitored_metric_and_what_has_no_weights_last():
    members = members_of(Settings(points='[{}, {"seed": 2}, {"seed": 3}, {"seed": 4}]'))
    values = [(0.6, 0.5), (0.7, 0.9), None, (0.6, 0.7)]
    results = [
        MemberResult(
            member,
            "Completed",
            [{"val_loss": loss, "val_accuracy": right} for loss, right in [value or (0.1, 1)]],
            1 if value else 0,
            [],
        )
        for member, value in zip(members, values, strict=True)
    ]

    def order(monitor):
        return [result.member.number for result in best_first(results, monitor)]

    assert order("val_loss") == [0, 3, 1, 2]
    assert order("val_accuracy") == [1, 3, 0, 2]
    assert results[2].as_json()["best_epoch"] is None and results[2].as_json()["metrics"] == {}
