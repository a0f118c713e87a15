"""Which KYDB URLs a job may be given, and what is shown of those that it may not."""

import pytest

from ml.errors import UserError, one_line, redacted
from ml.hyperparameters import parse_settings, parse_value
from ml.kydb_urls import SCHEMES_VARIABLE

SECRET = "er2secret"


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://epython/timeseries",
        "dynamodb://epython",
        "s3://my-bucket.of-mine/a folder",
        "redis://localhost:6379/base",
        "redis://named-in-the-configuration",
        "files://tmp/kydb",
        "files:///home/jane/My Prices",
        "redis://hotfixes;dynamodb://prices",
        "redis://cache:6379|s3://prices",
    ],
)
def test_urls_of_the_allowed_kinds_pass(url):
    assert parse_value("prices_db", url) == parse_value("model_db", f'"{url}"') == url


@pytest.mark.parametrize(
    "url",
    [
        f"redis://trader:hunt/{SECRET}@host",
        f"redis:/user:{SECRET}@",
        f"redis://:{SECRET}@host",
        f"redis://trader:a;{SECRET}@host/x",
        f"redis://trader:a|{SECRET}@host/x",
        f"s3://bucket;redis://trader:{SECRET}@host",
        f"redis://a|redis://trader:{SECRET}@host",
        f"redis://host?password={SECRET}",
        f"s3://bucket/x?X-Amz-Signature={SECRET}",
        f"redis://trader:{SECRET}",
        f"redis://trader%3A{SECRET}%40host",
        f"redis://{SECRET}:6379:1",
        f"https://{SECRET}/x",
        f"redis:{SECRET}",
        f"{SECRET}",
        f" redis://trader:my {SECRET}@host",
        f"s3://bucket\n{SECRET}",
    ],
)
@pytest.mark.parametrize("name", ["prices_db", "model_db"])
def test_a_url_that_may_hold_a_secret_is_refused_and_not_repeated(name, url, monkeypatch):
    monkeypatch.setenv(SCHEMES_VARIABLE, "http, memory")
    with pytest.raises(UserError, match=f"^hyperparameter {name} must") as refused:
        parse_settings({name: url})
    assert SECRET not in str(refused.value) and "trader" not in str(refused.value)


@pytest.mark.parametrize("kind", ["http", "https", "memory", "nosql"])
@pytest.mark.parametrize("form", ["{}://host/x", "files://tmp/x;{}://host/x", "redis://cache|{}://host/x"])
def test_other_kinds_are_for_the_owner_of_the_machine_to_allow(kind, form, monkeypatch):
    url = form.format(kind)
    with pytest.raises(
        UserError, match=rf"kinds dynamodb, files, redis, s3, received {kind}://\.\.\..*{SCHEMES_VARIABLE}"
    ):
        parse_value("prices_db", url)
    monkeypatch.setenv(SCHEMES_VARIABLE, f"memory,{kind}")
    assert parse_value("prices_db", url) == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("FILES://tmp", "such as s3://BUCKET, received no kind"),
        ("files:/tmp", "must have the form files://FOLDER"),
        ("s3://", "must have the form s3://BUCKET/FOLDER"),
        ("redis://host:port", "must have the form redis://HOST:PORT/FOLDER"),
        ("s3://a;s3://", "another s3 URL, in part 2 of 2"),
        ("s3://a|s3://b|s3://c", r"a cache of two \(URL\|URL\), received 3 parts"),
        ("s3://a;s3://b|s3://c", "received 3 parts"),
    ],
)
def test_what_is_no_kydb_url_is_told(url, message):
    with pytest.raises(UserError, match=message):
        parse_value("model_db", url)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:secret@host:6379/base", "redis://...@host:6379/base"),
        ("redis://trader:hunt/secret@host", "redis://...@host"),
        ("redis:/user:secret@", "redis:/...@"),
        ("redis://u:a;secret@host/x", "redis://...@host/x"),
        ("redis://u:a@secret@host/x", "redis://...@host/x"),
        ("redis://u:s3:/secret@host", "redis://...@host"),
        ("s3://bucket/a;redis://:secret@h", "s3://...@h"),
        ("GET https://h/x?token=secret&a=1 failed", "GET https://h/x?... failed"),
        ("'s3://bucket/a' and me@example.org", "'s3://bucket/a' and me@example.org"),
    ],
)
def test_secrets_in_a_url_are_not_shown(text, shown):
    assert redacted(text) == shown
    assert one_line(ValueError(text)) == f"ValueError: {shown}"
