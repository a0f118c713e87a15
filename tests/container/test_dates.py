"""Dates relative to a job's day."""

import json
from datetime import date

import pytest

from ml import dates
from ml.errors import UserError
from ml.hyperparameters import parse_settings


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("-0d", "2024-02-29"),
        ("-90d", "2023-12-01"),
        ("-2w", "2024-02-15"),
        ("-1m", "2024-01-29"),
        ("-3m", "2023-11-29"),
        ("-12m", "2023-02-28"),
        ("-3y", "2021-02-28"),
        ("-4y", "2020-02-29"),
    ],
)
def test_relative_days_keep_the_day_of_the_month_where_there_is_one(text, day):
    assert dates.relative_day(text, date(2024, 2, 29)) == date.fromisoformat(day)


@pytest.mark.parametrize("text", ["", "3y", "+3y", "-y", "-3", "-3Y", "-1.5y", "2020-01-01", "-3y "])
def test_what_is_no_relative_date_is_none(text):
    assert dates.relative_day(text, date(2024, 2, 29)) is None


@pytest.mark.parametrize("text", ["-9999y", "-99999d", "-99999m", "-99999w"])
def test_a_day_before_the_calendar_is_refused(text):
    with pytest.raises(ValueError, match="after the year 1"):
        dates.relative_day(text, date(200, 1, 1))


def test_a_job_that_is_started_again_keeps_its_first_day(tmp_path, monkeypatch):
    monkeypatch.setattr(dates, "today", lambda: date(2026, 1, 1))
    settings = {"start_date": "-3y"}
    assert dates.day_of_job(settings, tmp_path, "one") == date(2026, 1, 1)
    monkeypatch.setattr(dates, "today", lambda: date(2026, 1, 2))
    assert dates.day_of_job(settings, tmp_path, "one") == date(2026, 1, 1)
    assert dates.day_of_job(settings, tmp_path, "another") == date(2026, 1, 2)
    assert dates.day_of_job(settings, None, "one") == date(2026, 1, 2)


def test_a_folder_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(dates, "write_json", full)
    assert dates.day_of_job({"start_date": "-3y"}, tmp_path, "one") == dates.today()
    assert "first_day.json cannot be written (no space left on device)" in capsys.readouterr().out


def test_nothing_is_remembered_for_a_job_without_relative_dates(tmp_path):
    dates.day_of_job({"start_date": "2020-01-01", "epochs": "3"}, tmp_path, "one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", '{"day": "soon"}', json.dumps({"day": 5})])
def test_a_damaged_day_is_told_and_not_guessed(tmp_path, content):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "first_day.json").write_text(content)
    with pytest.raises(UserError, match=r"first_day\.json, which holds the day that start_date"):
        dates.day_of_job({"end_date": "-1d"}, tmp_path, "one")


def test_settings_resolve_relative_dates_from_the_day_they_are_given():
    request = {"start_date": "-3y", "end_date": "-1d"}
    settings = parse_settings(request, date(2026, 1, 1))
    assert str(settings.start_date) == "2023-01-01 00:00:00+00:00"
    assert str(settings.end_date) == "2025-12-31 23:59:59.999999+00:00"
    assert str(parse_settings(request, date(2026, 1, 2)).start_date) == "2023-01-02 00:00:00+00:00"
    with pytest.raises(UserError, match="start_date must be before end_date, received '-1d' and '-3y'"):
        parse_settings({"start_date": "-1d", "end_date": "-3y"})


def test_a_guarded_publication_needs_held_out_rows():
    with pytest.raises(
        UserError, match="publish_if=better needs a test or a validation part, received test_fraction=0"
    ):
        parse_settings({"publish_if": "better", "validation_fraction": "0", "test_fraction": "0"})
    assert parse_settings({"publish_if": "better", "validation_fraction": "0"}).test_fraction == 0.1
