import json

import pytest

from ml.errors import UserError
from ml.hyperparameters import parse_settings

RATE = {"Name": "learning_rate", "MinValue": "0.001", "MaxValue": "0.01"}


def continuous(**changes):
    entry = {name: value for name, value in (RATE | changes).items() if value is not None}
    return json.dumps({"ContinuousParameterRanges": [entry]})


def population(ranges, **more):
    return {"population": "8", "ranges": ranges} | more


def points(*values, **more):
    return {"points": json.dumps(values)} | more


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"population": "8"}, "population=8 needs ranges"),
        ({"ranges": continuous()}, "ranges needs a population, received population=1"),
        (points({"seed": 2}, population="8"), "points takes the place of population and ranges"),
        ({"halving": "2"}, "halving=2 needs a population"),
        (population(continuous(), halving="0.5"), r"halving must be in \[1, 1024\], received '0.5'"),
        (population("{"), "ranges is no JSON: .*received '{'"),
        (population("[]"), "ranges must be ParameterRanges in JSON such as"),
        (population('{"Continuous": []}'), "ranges has 'Continuous', and knows IntegerParameterRanges"),
        (population('{"ContinuousParameterRanges": []}'), "ranges has no range"),
        (population('{"ContinuousParameterRanges": [{}]}'), "an entry of ContinuousParameterRanges needs a Name"),
        (
            population(continuous(Name="batch_size")),
            "batch_size is one value for all members of a population; they may",
        ),
        (population(continuous(Name="rate")), "rate is unknown; they may differ in lookback, nodes"),
        (population(continuous(Name="nodes")), "the range of nodes must be among the IntegerParameterRanges"),
        (population(continuous(MinValue="0")), r"the range of learning_rate: .* must be in \(0, 100\], received '0'"),
        (population(continuous(MaxValue=None)), "the range of learning_rate: .* must be a number, received None"),
        (population(continuous(MinValue="1")), "MinValue of at most its MaxValue, received 1 and 0.01"),
        (population(continuous(ScalingType="Log")), "ScalingType of Auto, Linear, .* received 'Log'"),
        (population(continuous(Name="dropout", MinValue="0", ScalingType="Logarithmic")), "needs a MinValue above 0"),
        (population(continuous(ScalingType="ReverseLogarithmic", MaxValue="2")), r"must be continuous in \[0, 1\)"),
        (
            population('{"CategoricalParameterRanges": [{"Name": "nodes", "Values": []}]}'),
            r"the range of nodes needs Values, received \[\]",
        ),
        (
            population(json.dumps({"ContinuousParameterRanges": [RATE, RATE]})),
            "ranges has learning_rate more than once",
        ),
        ({"points": "{}"}, "points must be a JSON list such as"),
        ({"points": "[]"}, "points must be a JSON list such as"),
        ({"points": "[NaN]"}, "points is no JSON: NaN is no number"),
        (points({"seed": 1}, {"dropout": 2}), r"member 1 of points: hyperparameter dropout must be in \[0, 1\)"),
        (points({"layers": 3}), "layers is one value for all members"),
        (points({"seed": 1}, validation_fraction="0"), "chooses its best member on a validation part, received"),
        (points({"seed": 1}, monitor="last"), "chooses its best member by a metric, .* received monitor=last"),
        (points({"seed": 1}, folds="3"), "set folds=1, received folds=3"),
        (points({"seed": 1}, precision="float16"), "loss scale .* received precision=float16"),
        (
            {"longest_lookback": "60"},
            "longest_lookback must be 0 or at least lookback, received 60 and a lookback of 240",
        ),
        (points({"lookback": 700}, longest_lookback="600"), "received 600 and a lookback of 700"),
        (
            population('{"IntegerParameterRanges": [{"Name": "lookback", "MinValue": "9", "MaxValue": "700"}]}')
            | {"longest_lookback": "600"},
            "received 600 and a lookback of 700",
        ),
    ],
)
def test_a_population_that_cannot_be_is_refused_with_the_reason(hyperparameters, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_settings(hyperparameters)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1024


def test_what_is_right_is_taken():
    assert parse_settings(population(continuous(), halving="2")).population == 8
    assert parse_settings(points({"seed": "2", "lookback": 60.0}, {})).points
    assert parse_settings({"longest_lookback": "240"}).longest_lookback == 240
    lookbacks = population('{"CategoricalParameterRanges": [{"Name": "lookback", "Values": ["20", "60"]}]}')
    for shorter in (lookbacks, points({"lookback": 60})):  # than the default, which no member has
        assert parse_settings(shorter | {"longest_lookback": "100"}).longest_lookback == 100
