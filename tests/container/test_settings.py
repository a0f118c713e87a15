import dataclasses
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ml.errors import UserError
from ml.hyperparameters import parse_settings
from ml.metrics import METRICS, metric_definitions, metric_line, performance_line, rounded
from ml.settings import PRESETS, SETTINGS, Interval, Settings, settings_table

UTC = timezone.utc


def test_no_hyperparameters_means_the_defaults():
    assert parse_settings({}) == Settings()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"lookback": "60"}, 60),
        ({"lookback": 60}, 60),
        ({"lookback": "60.0"}, 60),
        ({"lookback": '"60"'}, 60),
        ({"learning_rate": "1e-4"}, 1e-4),
        ({"learning_rate": '"0.01"'}, 0.01),
        ({"optimizer": "sgd"}, "sgd"),
        ({"optimizer": '"sgd"'}, "sgd"),
        *(({"allow_cpu": text}, True) for text in ("true", "True", '"true"', '"True"', True)),
        *(({"allow_cpu": text}, False) for text in ("false", "False", '"False"', False)),
        ({"start_date": "2020-01-02"}, datetime(2020, 1, 2, tzinfo=UTC)),
        ({"start_date": "2020-01-02T03:04+09:00"}, datetime(2020, 1, 1, 18, 4, tzinfo=UTC)),
        ({"end_date": "2020-01-02"}, datetime(2020, 1, 2, 23, 59, 59, 999999, tzinfo=UTC)),
        ({"end_date": "2020-01-02T00:00"}, datetime(2020, 1, 2, tzinfo=UTC)),
        ({"end_date": ""}, None),
    ],
    ids=str,
)
def test_text_as_sagemaker_its_sdk_and_yaml_write_it(text, value):
    (name,) = text
    assert getattr(parse_settings(text), name) == value


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_what_is_not_given(preset):
    settings = parse_settings({"preset": preset, "nodes": "7", "spread": "0.5"})
    expected = dataclasses.asdict(Settings()) | PRESETS[preset] | {"preset": preset, "nodes": 7, "spread": 0.5}
    assert dataclasses.asdict(settings) == expected


def test_a_preset_holds_values_that_parse():
    for preset in PRESETS.values():
        texts = {name: str(value) for name, value in preset.items()}
        assert {name: getattr(parse_settings(texts), name) for name in preset} == preset


def test_the_table_shows_where_a_preset_differs():
    rows = {
        cells[1]: cells
        for cells in ([cell.strip() for cell in row.split("|")] for row in settings_table().splitlines())
    }
    assert rows["name"][2:4] == ["default", "original"] and set(SETTINGS) < set(rows)
    for name, value in PRESETS["original"].items():
        assert rows[name][3] == ("" if value == SETTINGS[name].default else str(value).lower())


def test_the_documented_table_is_the_declarations():
    page = Path(__file__).resolve().parents[2].joinpath("docs/settings.md").read_text(encoding="utf-8")
    assert page.partition("in container/ -->\n")[2] == f"{settings_table()}\n", "make docs writes it again"


def test_what_sagemaker_adds_is_passed_over():
    assert parse_settings({"sagemaker_region": "eu-west-1", "_tuning_objective_metric": "val_loss"}) == Settings()


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"lookbak": "60"}, "unknown hyperparameter lookbak; did you mean lookback?"),
        ({"zzz": "60"}, "unknown hyperparameter zzz; known: preset, lookback"),
        ({"dropout": "high"}, "dropout must be a number, received 'high'"),
        ({"dropout": "1"}, "dropout must be in [0, 1), received '1'"),
        ({"dropout": "nan"}, "dropout must be a finite number, received 'nan'"),
        ({"lookback": "60.5"}, "lookback must be a whole number, received '60.5'"),
        ({"lookback": "inf"}, "lookback must be a whole number, received 'inf'"),
        ({"lookback": ""}, "lookback must be a whole number, received ''"),
        ({"lookback": "1"}, "lookback must be in [2, 100000], received '1'"),
        ({"allow_cpu": "yes"}, "allow_cpu must be true or false, received 'yes'"),
        ({"optimizer": "adamm"}, "optimizer must be one of adam, adamw"),
        ({"timezone": "Mars"}, "timezone must be the IANA name of a zone, such as UTC, Europe/Berlin"),
        ({"timezone": "/etc/passwd"}, "timezone must be the IANA name of a zone"),
        ({"resample": "1month"}, "resample must be a bar's length, such as 30s, 1min"),
        ({"resample": "0min"}, "resample must be a bar's length"),
        ({"time_format": "%H:%M"}, "time_format must be a form with a year, such as %d/%m/%Y %H:%M"),
        ({"bid_column": "b"}, "bid_column needs ask_column too, received bid_column='b' alone"),
        ({"preset": "origin"}, "preset must be one of default, original, received 'origin'"),
        ({"start_date": "yesterday"}, "start_date must be a date such as 2020-06-01"),
        ({"start_date": "2020-06-02", "end_date": "2020-06-01"}, "start_date must be before end_date"),
        ({"patience": "3", "validation_fraction": "0"}, "patience needs a validation part"),
        ({"patience": "3", "monitor": "last"}, "patience needs a monitored metric, received monitor=last"),
        ({"folds": "2", "validation_fraction": "0"}, "folds=2 needs a validation part, received validation_fraction=0"),
        ({"test_fraction": "0.9"}, "together below 1, received 1 times 0.1 and 0.9"),
        (
            {"refit": "true", "test_fraction": "0", "validation_fraction": "0"},
            "refit needs a test or a validation part",
        ),
        ({"folds": "10"}, "must leave rows to train on: together below 1, received 10 times 0.1 and 0.1"),
    ],
    ids=str,
)
def test_a_wrong_value_is_told_with_what_is_allowed(hyperparameters, message):
    with pytest.raises(UserError) as caught:
        parse_settings(hyperparameters)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["prices_key", "model_key"])
@pytest.mark.parametrize(
    "key",
    [
        "/ml/x best_val_loss=0.000001 accuracy=1.0 .h5",
        "/a=b.h5",
        "/a b.h5",
        "/a\u00a0b.h5",
        "/a\x7f.h5",
        "/a\x9b.h5",
        "/a\u202eb.h5",
        "/a\ud800.h5",
        "/a//b",
        "/.a",
        "",
    ],
    ids=ascii,
)
def test_a_key_is_one_printable_word(name, key):
    with pytest.raises(UserError, match=f"hyperparameter {name} must be a key such as") as caught:
        parse_settings({name: key})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", ["/ml/" + "x" * 300 + ".h5", "/ml/" + "é" * 140, "x" * 178, "/".join(["x" * 100] * 9)])
def test_a_key_too_long_for_a_file_or_a_database_is_told_before_training(key):
    with pytest.raises(
        UserError, match="model_key must have parts of at most 180 bytes and at most 800 in all"
    ) as told:
        parse_settings({"model_key": key})
    assert len(str(told.value)) < 400
    assert parse_settings({"model_key": "é" * 88 + ".h5"}).h5_name == "é" * 88 + ".h5"


@pytest.mark.parametrize("last", ["metrics.json", "model.keras", "1", "X.H5"])
def test_no_key_names_another_file_of_the_model(last):
    assert parse_settings({"model_key": f"/ml/{last}"}).h5_name == f"{last}.h5"


def test_every_problem_is_told_at_once():
    with pytest.raises(UserError, match=r"dropout.*; .*nodez") as caught:
        parse_settings({"dropout": "2", "nodez": "1"})
    assert "did you mean nodes?" in str(caught.value)


def test_a_day_includes_both_its_ends():
    settings = parse_settings({"start_date": "2020-06-01", "end_date": "2020-06-01"})
    assert settings.end_date - settings.start_date > settings.start_date - settings.start_date


def test_every_default_is_one_that_parses():
    for name, field in SETTINGS.items():
        if field.default is not None:
            assert getattr(parse_settings({name: str(field.default)}), name) == field.default


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.999), (-1e-9, 1)),
        ("(0, 100]", (1e-9, 100), (0, 100.1)),
        ("[0, inf)", (1e300,), (-1,)),
    ],
)
def test_an_interval_means_what_it_says(text, inside, outside):
    assert all(value in Interval(text) for value in inside)
    assert not any(value in Interval(text) for value in outside)


def test_weights_counts_those_of_the_network():
    from ml.learn.network import build_network

    settings = Settings(lookback=30, nodes=7, layers=3)
    assert build_network(settings).count_params() == settings.weights


@pytest.mark.parametrize("value", [9.1e-06, 0.5, 1e9, 123456.789, float("nan"), float("inf"), 0.0, -2.5])
def test_the_number_printed_is_the_number_kept(value):
    metrics = {name: rounded(value) for name in METRICS}
    line = metric_line(3, 10, metrics)
    for definition in metric_definitions():
        found = float(re.search(definition["Regex"], line).group(1))
        assert found == metrics[definition["Name"]] or (found != found and value != value)


def test_each_expression_finds_its_own_metric_only():
    line = metric_line(1, 1, {name: float(i) for i, name in enumerate(METRICS)})
    for i, definition in enumerate(metric_definitions()):
        assert [float(text) for text in re.findall(definition["Regex"], line)] == [i]


def test_what_comes_once_a_job_is_a_line_of_its_own():
    once = {name: 0.5 for name, metric in METRICS.items() if metric.once}
    line = performance_line(once)
    assert line.startswith("performance ") and "\n" not in line
    assert [name for name, metric in METRICS.items() if re.search(metric.regex, line)] == list(once)


def test_the_declaration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().lookback = 3


@pytest.mark.slow
def test_it_imports_nothing_heavy():
    container = Path(sys.modules["ml.settings"].__file__).parents[1]
    loaded = subprocess.run(
        [sys.executable, "-c", "import ml.settings, sys; print(*sys.modules)"],
        cwd=container,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"numpy", "pandas", "tensorflow", "boto3", "kydb"} & set(loaded)
